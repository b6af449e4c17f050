"""Trainings and a sweep on a real SLURM of two nodes, started by the commands that a user types.

`make slurm` runs them, in some minutes.
"""

import os
import re
import signal
import socket
import subprocess

import jax
import pytest

from launch.runs import sweep
from qt_jax.training import checkpoints
from tests import tiny
from tests.conftest import train
from tests.launch import slurm_cluster
from tests.launch.slurm_cluster import wait_for
from tests.launch.test_launch import SWEEP, launch
from tests.training.test_learner import equal_trees, metric_records

pytestmark = pytest.mark.slurm

STEPS = 200


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with slurm_cluster.two_nodes() as conf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", conf)
        yield


@pytest.fixture
def config(dataset_path):
    """A config without images, so that most of the time is SLURM's."""
    config = tiny.get_config()
    config.data.path, config.env.cameras, config.train.steps = dataset_path, (), STEPS
    return config


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def on_slurm(config, workdir, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m launch slurm` with the settings of `config`."""
    settings = [f"--config.data.path={config.data.path}", f"--config.workdir={workdir}"]
    settings += ["--config.env.cameras=()", "--config.train.validate_every=100"]
    return launch("slurm", *arguments, *settings, f"--config.train.steps={config.train.steps}")


def submitted(done: subprocess.CompletedProcess) -> str:
    """Returns the job's number."""
    assert done.returncode == 0, done.stderr
    return re.fullmatch(r"Submitted batch job (\d+)\n", done.stdout)[1]


def of_job(job: str, field: str) -> list[str]:
    """Returns a field of the job; of an array, the field of each of its tasks."""
    return re.findall(rf"\b{field}=(\S+)", output("scontrol", "show", "job", job))


def task(job: str, number: int) -> list[int]:
    """Returns the training process of that number, if it runs."""
    variables = f"SLURM_CONF={os.environ['SLURM_CONF']}", f"SLURM_JOB_ID={job}", f"SLURM_PROCID={number}"
    found = slurm_cluster.processes(*variables)
    return [process for process in found if "qt_jax" in output("ps", "-o", "args=", "-p", str(process))]


def test_slurm_is_asked_without_a_job_and_its_refusal_is_one_line(config, tmp_path):
    taken, refused = (
        on_slurm(config, tmp_path / "run", "--config=tests/tiny.py", "--test-only", f"--nodes={nodes}")
        for nodes in (2, 3)
    )
    assert taken.returncode == 0 and "to start at" in taken.stdout and "127.0.0.[2-3]" in taken.stdout
    assert refused.returncode == 2
    assert re.search(r"^launch: sbatch .* failed: .*Requested node configuration", refused.stderr, re.M)
    assert not output("squeue", "-h")


def test_slurm_has_a_strange_directory_as_it_is_named(config, tmp_path):
    run = tmp_path / "a 'b' \"c\" #d é$(touch x) 5%"
    held = "--config=tests/tiny.py", "--option=--hold"
    job = submitted(on_slurm(config, run, *held))
    shown = output("scontrol", "show", "job", job)
    for field in (f"JobName={run.name}", f"Comment={run} ", f"StdOut={run}%/slurm-{job}.log"):
        assert f"{field}\n" in shown
    assert f"has job {job} already" in on_slurm(config, run, *held).stderr
    output("scancel", job)


def test_a_job_that_is_cancelled_does_not_start_again(config, tmp_path):
    job = submitted(on_slurm(config, tmp_path / "run", "--config=tests/tiny.py", "--nodes=2"))

    def left():
        return slurm_cluster.processes(f"SLURM_JOB_ID={job}", f"SLURM_CONF={os.environ['SLURM_CONF']}")

    wait_for(lambda: task(job, 0) and task(job, 1), 120, lambda: output("squeue"))
    output("scancel", job)

    def cancelled():
        return not left() and of_job(job, "JobState") == ["CANCELLED"]

    wait_for(cancelled, 120, lambda: output("scontrol", "show", "job", job))
    assert of_job(job, "Restarts") == ["0"]


def test_a_process_that_cannot_start_ends_the_job_with_its_own_status(config, tmp_path):
    """Process 0 finds its port taken, and no restart would help; process 1 hears nothing of it."""
    held = "--config=tests/tiny.py", "--nodes=2", "--option=--hold"
    soon = "--config.distributed.start_timeout_s=15"
    job = submitted(on_slurm(config, tmp_path / "run", *held, soon))
    with socket.create_server(("", 61440 + 2 * int(job))):
        output("scontrol", "release", job)
        wait_for(lambda: of_job(job, "JobState") == ["FAILED"], 120, lambda: output("squeue"))
    assert of_job(job, "ExitCode") == ["2:0"] and of_job(job, "Restarts") == ["0"]
    log = next(tmp_path.glob("run/slurm-*.log")).read_text()
    assert "Process 0 cannot listen" in log and "[0] did not reach" in log


def test_a_training_on_two_nodes_stopped_in_every_way_ends_as_if_undisturbed(config, tmp_path):
    """The job starts again after SIGTERM at its start and later, a killed process, and SLURM's requeue."""
    workdir = {name: tmp_path / name for name in ("undisturbed", "disturbed")}
    other, job = (
        submitted(on_slurm(config, path, "--config=tests/tiny.py", "--nodes=2", "--config.mesh.fsdp=2"))
        for path in workdir.values()
    )
    run = workdir["disturbed"]

    def log():
        return "".join(path.read_text()[-3000:] for path in run.glob("slurm-*.log"))

    def step():
        return checkpoints.latest_step(str(run)) if checkpoints.exists(str(run)) else 0

    restarts = 0

    def stop(how, when) -> None:
        nonlocal restarts
        wait_for(when, 600, log)
        how()
        restarts += 1
        wait_for(lambda: of_job(job, "Restarts") == [str(restarts)], 120, log)
        assert step() < STEPS, "the stop came after the end"

    def saved_one_more():
        before = step()
        return lambda: step() > before

    def terminate():
        return output("scancel", "--signal=TERM", job)

    stop(terminate, lambda: task(job, 1))
    assert not (run / "starts.jsonl").exists()
    stop(terminate, saved_one_more())
    stop(lambda: os.kill(*task(job, 1), signal.SIGKILL), saved_one_more())
    stop(lambda: output("scontrol", "requeue", job), saved_one_more())
    wait_for(lambda: of_job(job, "JobState") == of_job(other, "JobState") == ["COMPLETED"], 600, log)

    # The first stop came before the run had begun.
    assert len((run / "starts.jsonl").read_text().splitlines()) == restarts
    text = next(run.glob("slurm-*.log")).read_text()
    assert "saved; the same command continues" in text and "process 1 died" in text
    states, steps = [], []
    for config.workdir in map(str, workdir.values()):
        states.append(jax.device_get(train(config)))  # restored on one device; nothing is left to do
        steps.append([record["step"] for record in metric_records(config.workdir)])
    assert int(states[1].step) == STEPS and steps[0] == steps[1]
    equal_trees(*states)


def test_a_sweep_is_a_job_array_and_the_same_command_again_finds_it_finished(config, tmp_path):
    config.train.steps = 4
    job = submitted(on_slurm(config, tmp_path, f"--sweep={SWEEP}"))
    twice = on_slurm(config, tmp_path, f"--sweep={SWEEP}")
    assert twice.returncode == 2 and f"{tmp_path} has job {job} already" in twice.stderr
    wait_for(lambda: set(of_job(job, "JobState")) == {"COMPLETED"}, 600, lambda: output("squeue"))
    assert sorted(of_job(job, "ArrayTaskId")) == [str(number) for number in range(6)]
    assert all(run.step() == 4 for run in sweep(SWEEP, [f"--config.workdir={tmp_path}"]))
    again = on_slurm(config, tmp_path, f"--sweep={SWEEP}")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "6 runs, 6 finished\n")
