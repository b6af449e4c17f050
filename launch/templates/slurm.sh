#!/bin/bash
{% for line in option -%}
#SBATCH {{ line }}
{% endfor -%}
#SBATCH --job-name={{ name|directive }}
#SBATCH --comment={{ directory|directive }}
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{{ notice_s }}
#SBATCH --output={{ log|directive }}
{%- if runs|length > 1 %}
#SBATCH --array=0-{{ runs|length - 1 }}{{ at_once }}
{%- endif %}
# One task on each host. SLURM sends the tasks SIGTERM at a preemption, and {{ notice_s }} s before the time limit:
# they save and exit with 75.

commands=(
{%- for run in runs %}
  {{ run.shell(python)|quote }}
{%- endfor %}
)
cd {{ start|quote }} || exit 2
{%- for line in setup %}
{{ line }}
{%- endfor %}

# A process that fails ends the others itself. If srun did it, their 143 would hide its status: srun returns the highest.
srun --kill-on-bad-exit=0 --wait=0 bash -c "${commands[${SLURM_ARRAY_TASK_ID:-0}]}"
status=$?
case $status in
  {{ again|join('|') }})  # it saved, hung or lost a process: the same command continues from the last checkpoint
    if [ "${SLURM_RESTART_COUNT:-0}" -lt {{ restarts }} ]; then
      scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until SLURM ends this script
    fi ;;
esac
exit $status
