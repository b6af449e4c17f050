#!/bin/bash
# {{ runs|length }} run{{ '' if runs|length == 1 else 's, one after the other,' }} on all hosts of the TPU slice {{ name }}. Made anew where it was preempted; stopped with Ctrl-C, it leaves the slice.
set -u
tpu=(gcloud compute tpus tpu-vm)
where=({{ where|map('quote')|join(' ') }})
commands=(
{%- for run in runs %}
  {{ run.shell(python)|quote }}
{%- endfor %}
)

on_all() { "${tpu[@]}" ssh {{ name|quote }} "${where[@]}" --worker=all --command="$1"; }

ready() { [ "$("${tpu[@]}" describe {{ name|quote }} "${where[@]}" --format='value(state)' 2>/dev/null)" = READY ]; }

prepare() {
  ready || make || return
  on_all 'mkdir -p qt_jax_code' &&
  git archive HEAD -o /tmp/qt_jax_code.tar && "${tpu[@]}" scp /tmp/qt_jax_code.tar {{ (name + ':')|quote }} "${where[@]}" --worker=all &&
  on_all {{ install|quote }}
}

make() {
  "${tpu[@]}" delete {{ name|quote }} "${where[@]}" --quiet 2>/dev/null
  "${tpu[@]}" create {{ name|quote }} "${where[@]}" {{ create|map('quote')|join(' ') }}
}

for command in "${commands[@]}"; do
  status=1
  for ((start = 0; start <= {{ restarts }}; start++)); do
    prepare || { sleep 30; continue; }
    # A maintenance event or the end of a Spot slice reaches each host as SIGTERM: the run saves and leaves with 75.
    # The lock: where the connection alone was lost, the run before is still under way.
    on_all "cd qt_jax_code && QT_JAX_COMMIT=$(git rev-parse HEAD) flock --timeout 600 /tmp/qt_jax.lock bash -c $(printf %q "$command")"
    status=$?
    case $status in
      0) break ;;
      {{ again|join('|') }}|255) echo "status $status: continues from the last checkpoint" >&2 ;;  # 255: the connection was lost
      *) exit $status ;;
    esac
  done
  [ "$status" = 0 ] || exit "$status"
done
{%- if delete %}
"${tpu[@]}" delete {{ name|quote }} "${where[@]}" --quiet
{%- endif %}
