#!/bin/bash
# {{ runs|length }} run{{ '' if runs|length == 1 else 's, one after the other,' }} on all hosts
# of the TPU slice {{ name }}, with the code of commit {{ commit }}.
# It makes the slice again if it was preempted, and waits if there is no capacity. Ctrl-C leaves the
# slice as it is.
set -u
tpu=(gcloud compute tpus tpu-vm)
where=({{ where|map('quote')|join(' ') }})
commands=(
{%- for run in runs %}
  {{ run.shell(python)|quote }}
{%- endfor %}
)
cd {{ start|quote }} || exit {{ bad_input }}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
waited=0  # seconds without a slice

leave() { echo "launch tpu-vm: $2" >&2; exit "$1"; }

on_all() { "${tpu[@]}" ssh {{ name|quote }} "${where[@]}" --worker=all --command="$1"; }

# ask VERB ARGUMENT... puts gcloud's answer into $tmp/answer, its error (or else all that it prints) into
# $tmp/said. Exits at once if no later try could succeed.
ask() {
  "${tpu[@]}" "$1" {{ name|quote }} "${where[@]}" "${@:2}" --quiet \
    < /dev/null > "$tmp/answer" 2> "$tmp/all" && return
  case $? in
    126|127) leave {{ bad_input }} "gcloud cannot be run: $(tr -s '[:space:]' ' ' < "$tmp/all")" ;;
  esac
  sed -n '/^ERROR/,$p' "$tmp/all" > "$tmp/said"
  [ -s "$tmp/said" ] || cp "$tmp/all" "$tmp/said"
  sed -i 's/This command is authenticated as.*//' "$tmp/said"
  if matches "$never" && ! matches "$network"; then
    said=$(grep -Ei -m1 "$never" "$tmp/said")
    leave {{ bad_input }} "gcloud cannot make or reach the slice: ${said#ERROR: } (login, project, the \
TPU API, its quota and your rights are set once, by hand: see \`gcloud init\`)"
  fi
  return 1
}
matches() { grep -Eiq "$1" "$tmp/said"; }
# No later try helps: no login, project, right, billing or quota, an API that is off, no gcloud, a bad argument.
never='active account selected|no active account|auth login|reauth|invalid_grant|credentials'
never+='|unauthenticated|unauthorized'
never+='|required property|project property|set project|find attribute|consumer_invalid'
never+='|\b(project|zone|location|accelerator( type)?|version):? [^ ]+ '
never+='((was|is|does|could) )?(not|n.t) (be )?(exist|found)'
never+='|permission.?denied|not have (the )?[a-z. ]*permission|permission.*denied|forbidden|billing'
never+='|not have access|required .*permission'
never+='|service_disabled|has not been used|api.*(not enabled|disabled)'
never+='|limit(.?value)?[^a-z0-9]*(of |is )?[^a-z0-9]*0(\.0+)?(\.?[^0-9.]|\.?$)'
never+='|failed to load|must have python|command not found|command group installed'
never+='|gcloud crashed .(import|modulenotfound|syntax)error'
never+='|constraint .*violated|project has been deleted|\[[^]]*\] does not exist'
never+='|invalid.?argument|invalid (value|choice)|unrecognized argument|argument --|not a valid'
never+='|must be specified|unknown (zone|location|accelerator)'
# Errors of the network, at which gcloud may ask for a new login, too.
network='connectionpool|max retries|timed? ?out|unable to find the server|name resolution|unreachable'
network+='|connection (reset|refused|aborted)'
# No capacity now, or the project's quota is in use.
later='capacity|stockout|resource.?(pool.)?exhausted|(sufficient|enough) resources|currently unavailable'
later+='|quota|try again later|"?code"?: 8\b'

in_one_line() { tr -s '[:space:]' ' ' < "$tmp/said" | cut -c1-300; }

# Waits $1 s before another try, for at most {{ wait_s }} s in all.
wait_for_slice() {
  [ $((waited + $1)) -le {{ wait_s }} ] ||
    leave {{ temporary }} "$2, for $waited s (--wait-s={{ wait_s }}); the same command tries again"
  echo "$2, after $waited s; next try in $1 s" >&2
  sleep "$1"
  waited=$((waited + $1))
}

# Returns once the slice is ready, however long that takes; fails if something else is wrong.
have_slice() {
  local state made="" pause=30
  while :; do
    if ask describe '--format=value(state)'; then
      state=$(< "$tmp/answer")
    elif [ -s "$tmp/said" ] && ! matches 'not.?found'; then
      return 1  # maybe the network: nothing is known of the slice
    else
      state=
    fi
    case $state in
      READY) waited=0; return 0 ;;
      *ING) wait_for_slice 30 "the slice is $state"; continue ;;
      ?*) ask delete || return ;;  # preempted, stopped or broken
      *) [ -z "$made" ] || return ;;  # gcloud reported that it made one, and there is none
    esac
    if ask create {{ create|map('quote')|join(' ') }}; then
      made=yes
    else
      matches "$later" || return
      wait_for_slice "$pause" "no capacity for the slice ($(in_one_line))"
      pause=$((pause < 240 ? pause * 2 : 240))
    fi
  done
}

bring_code() {
  true > "$tmp/said"
  git archive {{ commit }} -o "$tmp/qt_jax_code.tar" && on_all 'mkdir -p qt_jax_code' &&
  "${tpu[@]}" scp "$tmp/qt_jax_code.tar" {{ (name + ':')|quote }} "${where[@]}" --worker=all &&
  on_all {{ install|quote }}
}

# Returns once all hosts have the code.
prepare() {
  local failures=0
  until have_slice && bring_code; do
    failures=$((failures + 1))
    cat "$tmp/said" >&2
    [ "$failures" -le {{ restarts }} ] ||
      leave 1 "$failures failures in a row to bring the code to the slice (--restarts={{ restarts }})"
    sleep 30
  done
}

command -v gcloud > /dev/null ||
  leave {{ bad_input }} "there is no gcloud here; install the Google Cloud CLI and run \`gcloud init\`"
for command in "${commands[@]}"; do
  for ((start = 0; ; start++)); do
    prepare
    # A maintenance event or the end of a Spot slice reaches each host as SIGTERM: the run saves and exits
    # with 75, or with 143 if Python itself was starting.
    # The lock: if only the connection was lost, the earlier run still goes on.
    on_all "cd qt_jax_code && QT_JAX_COMMIT={{ commit }} \
flock --timeout 600 /tmp/qt_jax.lock bash -c $(printf %q "$command")"
    status=$?
    case $status in
      0) break ;;
      {{ again|join('|') }}|255) ;;  # 255: the connection was lost
      *) leave "$status" "the run ended with status $status; the slice {{ name }} is still there" ;;
    esac
    [ "$start" -lt {{ restarts }} ] ||
      leave "$status" "status $status after $start restarts (--restarts={{ restarts }})"
    echo "status $status: continues from the last checkpoint" >&2
  done
done
{%- if delete %}
"${tpu[@]}" delete {{ name|quote }} "${where[@]}" --quiet
{%- endif %}
