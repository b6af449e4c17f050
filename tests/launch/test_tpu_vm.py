"""The script for TPU VMs with stand-ins for gcloud and sleep: what it waits for, starts again and ends at."""

import os
import re
import subprocess

import pytest

from launch import commit
from launch.__main__ import main
from qt_jax.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from tests.launch.test_launch import BUCKET, DRY, rendered

GCLOUD = r"""#!/bin/bash
# There is a slice once it was made. In $CALLS: `refusals` has a line for each time that it cannot be made,
# `states` an answer for each time that it is asked for (!: words of an error); a training ends with the next
# status of `statuses`.
next() { [ -s "$CALLS/$1" ] && head -n1 "$CALLS/$1" && sed -i 1d "$CALLS/$1"; }
echo "$*" >> "$CALLS/calls"
case "$*" in
  *describe*)
    if answer=$(next states); then
      [ "${answer#!}" = "$answer" ] || { echo "ERROR: ${answer#!}" >&2; exit 1; }
      echo "$answer"
    elif [ -e "$CALLS/made" ]; then echo READY
    else echo "ERROR: NOT_FOUND: Resource 'projects/a/locations/b/nodes/c' was not found. $AS" >&2; exit 1
    fi ;;
  *create*) if refusal=$(next refusals); then printf "%b\n" "$refusal" >&2; exit 1; fi; touch "$CALLS/made" ;;
  *flock*) exit "$(next statuses)" ;;
esac
"""
AS = "This command is authenticated as a@b.c which is the active account, using the credentials in /key.json."
NO_CAPACITY = "ERROR: (gcloud) There is no more capacity in the zone; you can try in another zone. " + AS


@pytest.fixture(autouse=True)
def committed(monkeypatch):
    """Lets every commit pass; test_commit.py tests what is in one."""
    monkeypatch.setattr(commit, "differing", lambda files: {})
    monkeypatch.setattr(commit, "head", lambda: "1" * 40)


def run(folder, capsys, *arguments, **answers):
    """Runs the script; returns (status, its lines on stderr, gcloud's calls, seconds slept)."""
    answers = {"statuses": ["0"]} | answers
    for name, lines in answers.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    for name, text in {"gcloud": GCLOUD, "sleep": '#!/bin/bash\necho "$1" >> "$CALLS/slept"\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder), "AS": AS}
    text = rendered("tpu-vm", capsys, *BUCKET, *arguments).replace("git archive", "true git archive")
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, env=environment, timeout=60)

    slept = (folder / "slept").read_text().split() if (folder / "slept").exists() else []
    calls = (folder / "calls").read_text().splitlines()
    return done.returncode, done.stderr.splitlines(), calls, [int(seconds) for seconds in slept]


def count(calls, *words):
    return [sum(word in call for call in calls) for word in words]


@pytest.mark.parametrize(
    "statuses, ends_with", [("75 255 143 137 76 0", 0), ("2", 2), ("0", 0), ("75 75 75", 75)]
)
def test_it_makes_a_slice_and_starts_again_what_asks_for_it(tmp_path, capsys, statuses, ends_with):
    restarts = 2 if ends_with == 75 else 20
    status, _, calls, slept = run(tmp_path, capsys, f"--restarts={restarts}", statuses=statuses.split())
    assert status == ends_with and not slept
    assert count(calls, "create", "flock", "scp") == [1, len(statuses.split()), len(statuses.split())]
    assert ("delete" in calls[-1]) == (ends_with == 0)  # as --delete asks, when all is finished


def test_capacity_is_waited_for_and_counts_as_no_failure(tmp_path, capsys):
    quota = (
        "ERROR: Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded. Limit: 16 in zone us-west4-a."
    )
    refusals = [
        f"WARNING: your credentials have no quota project\\n{NO_CAPACITY}",
        NO_CAPACITY,
        quota,
        "ERROR: The zone does not have enough resources available.",
    ]
    status, _, calls, slept = run(tmp_path, capsys, "--restarts=0", refusals=refusals)
    assert status == 0 and slept == [30, 60, 120, 240] and count(calls, "create", "delete") == [5, 1]


def test_capacity_that_does_not_come_ends_it_within_the_bound(tmp_path, capsys):
    status, errors, calls, slept = run(tmp_path, capsys, "--wait-s=100", refusals=[NO_CAPACITY] * 99)
    assert status == EXIT_PREEMPTED and 50 < sum(slept) <= 100 and "flock" not in str(calls)
    assert errors[-1].startswith("launch tpu-vm: no capacity for the slice") and "--wait-s=100" in errors[-1]


FOR_GOOD = (
    "(gcloud.compute.tpus.tpu-vm.describe) You do not currently have an active account selected.",
    "(gcloud.compute.tpus.tpu-vm.describe) The required property [project] is not currently set.",
    "(gcloud) Reauthentication failed. cannot prompt during non-interactive execution.",
    "(gcloud) PERMISSION_DENIED: Cloud TPU API has not been used in project 12 before or it is disabled.",
    "(gcloud) Project 'projects/123' not found or deleted.",
    "(gcloud) The project lab does not exist.",
    "(gcloud) INVALID_ARGUMENT: Location us-west9-z is not found.",
    "(gcloud) API [tpu.googleapis.com] not enabled on project [lab].",
    "(gcloud) User [a@b.c] does not have permission to access projects instance [lab] (or it may not exist)",
    "(gcloud) Permission 'tpu.nodes.create' denied on 'projects/lab/locations/us-west4-a'",
    "(gcloud.compute.tpus) Invalid choice: 'tpu-vm'.",
    "(gcloud) INVALID_ARGUMENT: Cloud TPU got an unknown accelerator type",
    "RESOURCE_EXHAUSTED: Quota 'TPUS' has been exceeded. Limit: 0 in zone us-west4-a.",
    "Quota 'TPUS' exceeded, quota_limit_value: '0'",
    "Quota 'TPUS' exceeded. Limit: 0.0",
    "Failed to find attribute [project]. The attribute can be set in the following ways:",
    "You do not currently have this command group installed. Using it requires the components: [alpha]",
    "gcloud crashed (ModuleNotFoundError): No module named 'imp'",
    "(gcloud) Required 'tpu.nodes.create' permission for 'projects/lab'",
    "(gcloud) The user does not have access to service account 'x@lab.iam.gserviceaccount.com'",
    "(gcloud) FAILED_PRECONDITION: Constraint constraints/gcp.resourceLocations violated for projects/lab",
    "(gcloud.config) The configuration [lab] does not exist.",
)
FOR_NOW = (
    "There is no more capacity in the zone; you can try in another zone where Cloud TPU Nodes are offered",
    "Quota limit 'TPUV5sLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 16 in zone us-west4-a.",
    "The zone 'projects/lab/zones/us-west4-a' does not have enough resources available.",
    "Insufficient reserved capacity. Contact customer support to increase your reservation.",
    "NOT_FOUND: Resource 'projects/lab/locations/us-west4-a/nodes/qt' was not found",
    "ALREADY_EXISTS: Resource 'projects/lab/locations/us-west4-a/nodes/qt' already exists",
    "Internal error encountered.",
    "gcloud crashed (RemoteDisconnected): Remote end closed connection without response",
)


def test_what_ends_it_and_what_does_not(capsys):
    text = rendered("tpu-vm", capsys, *BUCKET)
    script = "".join(re.findall("^never.*\n", text, re.M)) + 'grep -Ei "$never"'
    messages = "".join(f"{message}\n" for message in (*FOR_GOOD, *FOR_NOW))
    found = subprocess.run(["bash", "-c", script], input=messages, capture_output=True, text=True).stdout
    assert found.splitlines() == list(FOR_GOOD)


def test_a_gcloud_that_is_not_set_up_is_one_line_at_once(tmp_path, capsys):
    """It ends when gcloud is first asked for the slice."""
    status, errors, calls, slept = run(tmp_path, capsys, states=[f"!{FOR_GOOD[0]}"])
    assert (status, len(errors), len(calls), slept) == (EXIT_USER_ERROR, 1, 1, [])
    assert FOR_GOOD[0] in errors[0]


def test_a_quota_of_nothing_is_not_waited_for(tmp_path, capsys):
    refusal = "ERROR: RESOURCE_EXHAUSTED: Quota 'TPUS'. Limit: 0 in zone"
    status, errors, _, slept = run(tmp_path, capsys, refusals=[refusal])
    assert (status, len(errors), slept) == (EXIT_USER_ERROR, 1, []) and "Quota 'TPUS'" in errors[0]


def test_no_gcloud_is_one_line(tmp_path, capsys):
    (tmp_path / "bin").mkdir()
    for name in ("bash", "mktemp", "rm"):
        (tmp_path / "bin" / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    text = rendered("tpu-vm", capsys, *BUCKET)
    environment = {"PATH": f"{tmp_path}/bin"}
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.count("\n") == 1 and "no gcloud here" in done.stderr


def test_a_gcloud_that_cannot_be_run_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tests.launch.test_tpu_vm.GCLOUD", "#!/usr/bin/env no-such-python\n")
    (tmp_path / "calls").touch()
    status, errors, _, slept = run(tmp_path, capsys)
    assert (status, len(errors), slept) == (EXIT_USER_ERROR, 1, []) and "no-such-python" in errors[0]


def test_other_failures_are_counted(tmp_path, capsys):
    status, errors, calls, slept = run(
        tmp_path, capsys, "--restarts=2", refusals=["ERROR: internal error"] * 9
    )
    assert status == 1 and count(calls, "create") == [3] and slept == [30, 30]
    assert "3 failures in a row" in errors[-1]


@pytest.mark.parametrize("states, created, deleted", [
    (["!Unable to find the server", "READY"], 0, 0),  # nothing is known of the slice: it stays
    (["!auth tokens: Max retries exceeded, please run: gcloud auth login", "READY"], 0, 0),
    (["CREATING", "REPAIRING", "READY"], 0, 0),
    (["PREEMPTED"], 1, 1),
    (["READY"], 0, 0),
])  # fmt: skip
def test_a_slice_is_made_anew_only_where_it_is_known_to_be_gone(tmp_path, capsys, states, created, deleted):
    status, _, calls, _ = run(tmp_path, capsys, states=states)
    assert status == 0 and count(calls, "create", "delete") == [created, deleted + 1]  # the last for --delete


def test_every_value_reaches_the_training_as_it_was_given(tmp_path, capsys):
    """The values go through the script, gcloud's ssh and two shells."""
    strange = ["--config.data.root=a 'b' \"c\" $(touch x) `touch x` $HOME é\n#SBATCH -x"]
    strange += ["--config.data.path=-rf"]
    (tmp_path / "qt_jax_code/.venv/bin").mkdir(parents=True)
    for name, text in {
        "gcloud": "#!/bin/bash\ncase $* in *describe*) echo READY ;; *flock*) "
        'last="${!#}"; exec bash -c "${last#--command=}" ;; esac',
        "flock": '#!/bin/bash\nexec "${@:4}"',
        "qt_jax_code/.venv/bin/python": '#!/bin/bash\nprintf "%s\\0" "$@" > given',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    text = rendered("tpu-vm", capsys, *BUCKET, *strange)
    text = re.sub("^cd .*", f"cd {tmp_path}", text, flags=re.M).replace("git archive", "true git archive")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash"], input=text, text=True, env=environment, check=True, timeout=60)
    assert (tmp_path / "qt_jax_code/given").read_text().split("\0")[7:9] == strange
    assert not list(tmp_path.rglob("x"))


@pytest.mark.parametrize("given, message", [
    (("--name=a\nrm -rf b",), "lower-case letters"),
    (("--zone=$(x)",), "--zone="),
    (("--accelerator=v4-16", "--config.mesh.fsdp=16"), "on 8 devices: .*together 16 on 8 devices"),
    (("--accelerator=v5litepod-32",), "on 32 devices: .*batch_size is 16, expected a multiple of 32"),
    (("--config.workdir=runs/x",), "give a bucket"),
    (("--zone=",), "--zone=''"),
    (("--accelerator=v5litepod-0",), "--accelerator=v5litepod-0: expected one of 1, 4, 8, 16, .* chips"),
    (("--accelerator=v4-7",), "expected a multiple of 8 cores"),
    (("--config.distributed.num_processes=1",), "num_processes is 1 for every host"),
])  # fmt: skip
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        main(["tpu-vm", *DRY["tpu-vm"], "--dry-run", *BUCKET, *given])
