"""Every file that a cluster reads, checked by the tool for its kind."""

import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from launch.__main__ import main
from tests.conftest import ROOT
from tests.launch.test_gke import GPUS
from tests.launch.test_launch import BUCKET, DRY, LOCAL_SLURM, SWEEP, rendered

BIN = Path(sys.executable).parent
JOBSET = yaml.safe_load((Path(__file__).parent / "jobset.schema.yaml").read_text())
GIVEN = ("--env=A=$(B)", "--secret=wandb", "--volume=pvc/a:/a", "--volume=gcs/b:/b", "--volume=nfs/s/e:/n",
         "--volume=secret/s:/s", "--volume=configmap/c:/c", "--volume=memory/8Gi:/dev/shm",
         "--node-selector=a.b/c=d", "--toleration=a=b:NoSchedule")  # fmt: skip


def checked(program, *arguments, text=""):
    done = subprocess.run(
        [BIN / program, *arguments], input=text, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize("where, given", [
    ("slurm", LOCAL_SLURM),
    ("slurm", (f"--sweep={SWEEP}", "--at-once=2", "--setup=module load cuda", "--evaluate", "--nodes=1")),
    ("tpu-vm", BUCKET),
])  # fmt: skip
def test_shellcheck_has_nothing_to_say(where, given, capsys):
    text = rendered(where, capsys, *given)
    assert not checked("shellcheck", "-", text=text)
    assert "SC2086" in checked("shellcheck", "-", text=text + "\nls $HOME/$1\n")  # it did read it


@pytest.mark.parametrize("name", ["Dockerfile.gpu", "Dockerfile.tpu"])
def test_hadolint_has_nothing_to_say(name):
    path = f"launch/docker/{name}"
    assert not checked("hadolint", path)
    untagged = (ROOT / path).read_text().replace(":3.11-slim-bookworm", "")
    assert "DL3006" in checked("hadolint", "-", text=untagged)


@pytest.mark.parametrize(
    "pool", [DRY["gke"], (*DRY["gke"], "--queue=multislice-queue"), GPUS, (*GPUS, *GIVEN)]
)
def test_jobsets_hold_to_their_schema_and_their_jobs_to_that_of_kubernetes(pool, capsys):
    for jobset in jobsets(capsys, pool):
        jsonschema.validate(jobset, JOBSET)
        for job in jobset["spec"]["replicatedJobs"]:
            kubernetes_validate.validate(as_job(job), kubernetes_validate.latest_version(), strict=True)


def test_a_wrong_field_is_found(capsys):
    (jobset,) = jobsets(capsys, DRY["gke"])
    (job,) = jobset["spec"]["replicatedJobs"]
    job["template"]["spec"]["paralelism"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="paralelism"):
        kubernetes_validate.validate(as_job(job), kubernetes_validate.latest_version(), strict=True)
    jobset["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(jobset, JOBSET)


def jobsets(capsys, pool):
    main(["gke", *pool, "--dry-run", *BUCKET])
    return list(yaml.safe_load_all(capsys.readouterr().out))


def as_job(job):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "hosts"},
        "spec": job["template"]["spec"],
    }
