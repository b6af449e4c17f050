"""Sweeps, their results, and what each launcher would run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
import yaml

from launch import local, results
from launch.__main__ import main
from launch.arguments import EPILOG, parser
from launch.runs import AGAIN, KILLED, name_of, resolve, single, sweep
from qt_jax.errors import UserError
from tests.conftest import ROOT, run_command

SWEEP = "tests/launch/tiny_sweep.py"
BUCKET = (
    "--config=tests/tiny.py",
    "--config.workdir=gs://lab/runs/tiny",
    "--config.agent.alpha=3.0",
    "--config.data.batch_size=16",
)
DRY = {
    "slurm": ("--nodes=2", "--option=--gpus-per-node=8", "--python=python"),
    "tpu-vm": (
        "--name=slice",
        "--zone=us-west4-a",
        "--accelerator=v5litepod-16",
        "--version=v2-alpha-tpuv5-lite",
        "--spot",
        "--delete",
    ),
    "gke": (
        "--image=r/qt:1",
        "--accelerator=tpu-v5-lite-podslice",
        "--topology=4x4",
        "--hosts=4",
        "--chips=4",
    ),
}
SLURM = ("slurm", "--config=tests/tiny.py", "--dry-run")
LOCAL_SLURM = ("--config=tests/tiny.py", "--config.agent.alpha=3.0")


def launch(*arguments, **settings):
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **settings)


def rendered(where, capsys, *given):
    main([where, *DRY[where], "--dry-run", *given])
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_killed_halfway_ends_with_six_finished_runs_and_none_repeated(dataset_path, tmp_path):
    settings = [f"--config.data.path={dataset_path}", f"--config.workdir={tmp_path}"]
    settings += ["--config.env.cameras=()"]
    settings += ["--config.train.steps=4", "--config.train.checkpoint_every=2"]
    command = [sys.executable, "-m", "launch", "local", f"--sweep={SWEEP}", "--workers=2", *settings]

    def finished():
        return sorted(path.parts[-3] for path in tmp_path.glob("*/checkpoints/4"))

    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while len(finished()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)  # its runs go on, and hold their locks
    before = finished()
    assert 2 <= len(before) < 6

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(finished()) == 6
    logs = tmp_path.glob("*/starts.jsonl")
    starts = {path.parent.name: len(path.read_text().splitlines()) for path in logs}
    assert all(starts[name] == 1 for name in before) and max(starts.values()) <= 2
    for path in tmp_path.glob("*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == [4, 4]  # of training and of validation

    results.report(sweep(SWEEP, settings))
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    assert header == "agent.alpha,seed,step,validation/loss,workdir" and len(rows) == 6 and "4/4" in rows[0]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_runs_have_stable_names_and_every_override_is_checked():
    runs = sweep(SWEEP, ["--config.train.steps=7"])
    assert [run.name for run in runs][:2] == ["alpha=1.0,seed=0", "alpha=1.0,seed=1"]
    assert runs[0].workdir == "runs/sweeps/tiny_sweep/alpha=1.0,seed=0" and runs[3].config.agent.alpha == 3.0
    assert runs[0].config.train.steps == 7
    assert name_of({"data.limits": ("a=1", "b=2"), "x.y": "p/q"}) == "limits=a1b2,y=pq"
    assert name_of({"a.steps": 1, "b.steps": 2}) == "a.steps=1,b.steps=2"
    with pytest.raises(UserError, match="did you mean --config.agent.alpha"):
        sweep(SWEEP, ["--config.agent.alhpa=1"])
    with pytest.raises(UserError, match="agent.target_rate is 2.0"):
        resolve("tests/tiny.py", ["--config.agent.target_rate=2.0"])
    with pytest.raises(UserError, match="no sweep"):
        sweep("tests/launch/none.py", [])


def test_results_show_the_success_of_rollouts_and_leave_room_for_what_is_missing(trained, tmp_path, capsys):
    """They read what `train` and `evaluate` write."""
    settings = [f"--config.workdir={tmp_path}"]
    done, *_, missing = sweep(SWEEP, settings, evaluate=True)
    shutil.copytree(trained.workdir, done.workdir)
    short = "--config.evaluate.episodes=1", "--config.evaluate.max_decisions=2"
    run_command("evaluate", f"--config.workdir={done.workdir}", *short)
    assert done.finished() and not missing.finished()
    with pytest.raises(UserError, match="was made with config.discount=0.98, this run has 0.9;"):
        sweep(SWEEP, [*settings, "--config.discount=0.9"])[0].finished()

    results.report(sweep(SWEEP, settings))
    header, *_, last = capsys.readouterr().out.split("\n\n")[0].strip().splitlines()
    assert header.split(" | ")[-2] == "success" and "| 0/20 |  |" in last
    assert "| 20/20 | 0 |" in (tmp_path / "table.md").read_text().splitlines()[2]


@pytest.mark.parametrize("where", DRY)
def test_every_launcher_names_the_same_command_and_starts_again(where, capsys):
    text = rendered(where, capsys, *BUCKET)
    command = shlex.join(single(BUCKET[0].partition("=")[2], BUCKET[1:]).commands()[0])
    if where == "gke":
        (jobset,) = yaml.safe_load_all(text)
        job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        pod = job["template"]["spec"]
        assert shlex.join(pod["containers"][0]["command"]) == command and job["completions"] == 4
        assert pod["terminationGracePeriodSeconds"] == 180
        assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 20
        values = job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
        assert values == [75, 76, 77, 134, 137, 143]  # Kubernetes wants them in order
    else:
        assert command in text and "75|76|77|134|143|137" in text and "SIGTERM" in text
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("body, message", [
    ("raise KeyError('x')", r"overrides\(\) raised KeyError: 'x'"),
    ("return [5]", "gives 5; expected settings"),
    ("return [{'seed': 1}, {'seed': 1}]", "two runs of the name 'seed=1'"),
    ("return [{'seed': 1, 'workdir': 'x'}]", "without a workdir"),
    ("return []", "gives no run"),
    ("return (", "cannot be loaded: SyntaxError"),
])  # fmt: skip
def test_a_faulty_sweep_is_one_line(body, message, tmp_path):
    (tmp_path / "faulty.py").write_text(f"CONFIG = 'tests/tiny.py'\ndef overrides():\n    {body}\n")
    with pytest.raises(UserError, match=message):
        sweep(str(tmp_path / "faulty.py"), [])


def test_slurm_makes_an_array_of_a_sweep(capsys):
    text = rendered("slurm", capsys, f"--sweep={SWEEP}", "--at-once=2")
    assert "#SBATCH --array=0-5%2" in text and "#SBATCH --signal=TERM@180" in text
    assert "scontrol requeue" in text
    assert "75|76|77|134|143|137)" in text
    assert len(re.findall(r"^  'python -m qt_jax train .*'$", text, re.M)) == 6


@pytest.mark.parametrize("arguments, message", [
    (("local", "--config=tests/tiny.py", "--workers=0"), "--workers: '0', expected"),
    ((*SLURM, "--nodes=2", "--evaluate"), "rollouts are one process's"),
    (("local", "--config=tests/tiny.py", "--wrokers=2"), "Unknown argument '--wrokers=2'"),
    (("local", "--config=tests/tiny.py", "--worker=2"), "Unknown argument '--worker=2'"),
    (("slurm", "--config=tests/tiny.py", "--option=partition=gpu", "--dry-run"), "is no option of sbatch"),
    (("gke", *DRY["gke"], "--config=tests/tiny.py", "--config.workdir=runs/x"), "give a bucket"),
    ((*SLURM, "--nodes=0"), "--nodes: '0', expected a whole number, 1 or more"),
    ((*SLURM, "--notice-s=-5"), "--notice-s: '-5', expected a whole number, 1 to 65535"),
    ((*SLURM, "--restarts=-1"), "--restarts: '-1', expected a whole number, 0 or more"),
    ((*SLURM, "--at-once=x"), "--at-once: 'x', expected"),
    (("gke", *DRY["gke"], "--chips=0", *BUCKET), "--chips: '0', expected"),
    (("gke", *DRY["gke"][1:], *BUCKET), "required: --image; `python -m launch gke --help` lists"),
    (("tpu-vm", *DRY["tpu-vm"], "--wait-s=-1", *BUCKET), "--wait-s: '-1', expected"),
    ((*SLURM, "--config.workdir=/tmp/a\ntouch b #"), "config.workdir is '/tmp/a.ntouch b #'"),
    ((*SLURM, "--config.workdir=/tmp/a\\b"), "without a backslash"),
    ((*SLURM, "--option=--time=1 --array=0-3"), "sets --array=0-3 itself"),
    ((*SLURM, "--option=--nodes 4"), "sets --nodes itself"),
    ((*SLURM, "--option=-n8"), "sets -n8 itself"),
    ((*SLURM, "--config.distributed.num_processes=-2"), "num_processes=-2.*num_processes=1 for"),
    ((*SLURM, "--nodes=2", "--config.distributed.num_processes=1"), "num_processes is 1 for every host"),
    ((*SLURM, "--config.distributed.coordinator=a:1", "--config.distributed.num_processes=2",
      "--config.distributed.process_id=0"), "coordinator is 'a:1' for every host; leave it out"),
    ((*SLURM, "--config.train.accumulation=0"), "train.accumulation is 0, expected a positive number"),
    ((*SLURM, "--config=tests/none.py:x"), f"There is no experiment tests/none.py in {ROOT}; launch from"),
    (("results", "--sweep=tests/none.py"), f"There is no sweep tests/none.py in {ROOT}"),
    ((*SLURM, "--option=--output=log"), "--option=--output=log would be lost or break the script"),
    ((*SLURM, "--option=-N4"), "--option=-N4 would be lost"),
    ((*SLURM, "--option=--time=1\nrm x"), "no line of the script can hold it"),
    (("results", f"--sweep={SWEEP}", "--config.workdir=/tmp/qt_jax_none"), "none has any metrics"),
])  # fmt: skip
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_a_run_in_a_bucket_logs_here_below_runs(capsys, tmp_path, monkeypatch):
    """A dry run does not ask the bucket, which cannot be reached here."""
    text = rendered("slurm", capsys, *BUCKET, "--nodes=1")
    assert f'#SBATCH --output="{ROOT}/runs/logs/lab/runs/tiny/slurm-%j.log"\n' in text
    text = rendered("slurm", capsys, f"--sweep={SWEEP}", "--config.workdir=gs://lab/sweep")
    assert f'#SBATCH --output="{ROOT}/runs/logs/lab/sweep/slurm-%A_%a.log"\n' in text
    main(["local", *BUCKET, "--dry-run"])
    monkeypatch.chdir(tmp_path)
    assert single(str(ROOT / "tests/tiny.py"), ["--config.workdir=a/b"]).logs == tmp_path / "a/b"


def test_launchers_start_again_at_the_statuses_of_the_documented_table():
    """In docs/cluster.md those statuses ask for it, and no others."""
    table = re.findall(r"^\| ([\d, ]+) \|.*\| (.*) \|$", (ROOT / "docs/cluster.md").read_text(), re.M)
    again = [int(status) for row, do in table if "again" in do for status in row.split(", ")]
    assert sorted(again) == sorted(AGAIN + KILLED)
    assert {int(status) for row, _ in table for status in row.split(", ")} > {0, 1, 2, 130}


def test_help_has_a_line_for_each_argument_and_its_examples_are_read(capsys):
    for where in ("", "local", "slurm", "tpu-vm", "gke", "results"):
        with pytest.raises(SystemExit):
            main([where, "--help"] if where else ["--help"])
        printed = capsys.readouterr().out
        assert not re.findall(r"^  --[\w-]+( [A-Z_]+)?$(?!\n {10})", printed, re.M)
    for example in re.findall("^  python -m launch (.*)$", EPILOG, re.M):
        parser("").parse_args(example.split())


def test_slurm_reads_every_value_as_it_was_given(capsys, tmp_path):
    """A `#` would end a line of #SBATCH even within quotes; bash reads the command, which may hold all."""
    strange = "a 'b' \"c\" #d é$(touch x)`touch x`"
    settings = [f"--config.workdir={tmp_path}/{strange}", "--config.data.path=-one\n#SBATCH --nodes=9\ntwo"]
    text = rendered("slurm", capsys, "--config=tests/tiny.py", *settings)
    assert '#SBATCH --job-name="a \'b\' \\"c\\" \\#d é$(touch x)`touch x`"\n' in text
    (tmp_path / "srun").write_text('#!/bin/bash\nexec "${@: -3}"\n')
    (tmp_path / "python").write_text('#!/bin/bash\nprintf "%s\\0" "$@" > given\n')
    for name in ("srun", "python"):
        (tmp_path / name).chmod(0o755)
    text = re.sub("^cd .*", f"cd {tmp_path}", text, flags=re.M)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash"], input=text, text=True, env=environment, check=True, timeout=60)
    assert (tmp_path / "given").read_text().split("\0")[4:6] == settings and not (tmp_path / "x").exists()


KILLED_TWICE_AND_FOR_GOOD = """
import os, pathlib, signal
starts = pathlib.Path("starts")
starts.write_text((starts.read_text() if starts.exists() else "") + ".")
os.kill(os.getpid(), signal.SIGTERM if len(starts.read_text()) < 3 else signal.SIGKILL)
"""


def test_a_run_that_is_stopped_before_it_could_save_starts_again(tmp_path, monkeypatch):
    """Also on this machine, where Python gives the status of a signal as a negative number."""
    (tmp_path / "run").mkdir()
    run = types.SimpleNamespace(
        name="run",
        logs=tmp_path / "run",
        finished=lambda: False,
        step=lambda: 0,
        commands=lambda python: [[python, "-c", KILLED_TWICE_AND_FOR_GOOD]],
    )
    monkeypatch.chdir(tmp_path)
    assert local.Launcher(1)([run]) == {"run": 137} and (tmp_path / "starts").read_text() == "..."


def test_the_command_prints_one_line():
    done = launch("slurm", "--config=tests/tiny.py", "--config.train.stpes=3", "--dry-run")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "steps" in done.stderr
