"""What a scheduler, a full disk, a damaged file or a dead host does to a run of the real command."""

import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from qt_jax.errors import EXIT_HUNG, EXIT_PEER_LOST, EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from qt_jax.training import checkpoints, distributed
from tests.conftest import ROOT, assert_group_ends, train, with_devices
from tests.training.test_learner import equal_trees, metric_records, saved_state


def start(config, *overrides, devices=1, environment=None, **options) -> subprocess.Popen:
    """The command train on `config`'s data and workdir."""
    command = [sys.executable, "-m", "qt_jax", "train", "--config=tests/tiny.py"]
    command += [f"--config.data.path={config.data.path}", f"--config.workdir={config.workdir}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = with_devices(devices, **(environment or {}))
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)


def end(process: subprocess.Popen, status: int) -> str:
    """Its stderr, once it has left with that status."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == status, errors[-3000:]
    return errors


def wait_for(process: subprocess.Popen, condition) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.01)


def logged_a_step(config) -> bool:
    path = Path(config.workdir, "metrics.jsonl")
    return path.exists() and bool(path.read_text())


def test_sigterm_saves_leaves_with_its_own_status_and_continues_bit_for_bit(trained, config):
    process = start(config, "--config.train.checkpoint_every=1000")
    wait_for(process, lambda: logged_a_step(config))
    process.send_signal(signal.SIGTERM)
    assert "is saved; the same command continues" in end(process, EXIT_PREEMPTED)
    assert 0 < checkpoints.latest_step(config.workdir) < 20
    train(config)
    equal_trees(saved_state(config.workdir), saved_state(trained.workdir))


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_if_undisturbed(trained, config):
    """With images, worker processes and a save every two steps.

    Kills fall into start-up, steps, validation and saves. tests/training/test_learner.py has one kill.
    """
    settings = "--config.train.checkpoint_every=2", "--config.data.workers=2"
    moments = random.Random(20)
    for _ in range(20):
        process = start(config, *settings, start_new_session=True)
        time.sleep(moments.uniform(5.0, 16.0))
        process.kill()
        process.communicate()
        assert_group_ends(process.pid)
    end(start(config, *settings), 0)
    equal_trees(saved_state(config.workdir), saved_state(trained.workdir))


MESHES_SCRIPT = """
import sys, jax, numpy as np
from tests import tiny
from tests.conftest import train
config = tiny.get_config()
config.data.path, finished, halfway, out = sys.argv[1:]
runs = [("a", finished, 4, 2), ("b", halfway, 4, 2), ("c", halfway, 2, 4)]
for name, config.workdir, config.mesh.data, config.mesh.fsdp in runs:
    state = train(config)
    assert any(len(x.sharding.spec) for x in jax.tree.leaves(state.params)), "nothing is sharded"
    np.savez(f"{out}/{name}.npz", *jax.device_get(jax.tree.leaves(state)))
"""


@pytest.mark.slow
def test_a_checkpoint_restores_on_any_mesh(trained, config, tmp_path):
    """Saved by 1 device: restored on 4x2 (a).

    Trained on and saved by 4x2 (b), as one device would have: restored on 2x4 (c) and by 1 device.
    """
    shutil.copytree(trained.workdir, config.workdir)
    shutil.rmtree(Path(config.workdir, "checkpoints", "20"))
    environment = with_devices(8)
    command = [
        sys.executable,
        "-c",
        MESHES_SCRIPT,
        config.data.path,
        trained.workdir,
        config.workdir,
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    a, b, c = (list(np.load(tmp_path / f"{name}.npz").values()) for name in "abc")
    equal_trees(a, jax.device_get(jax.tree.leaves(train(trained))))
    equal_trees(b, c)
    state = jax.device_get(train(config))
    equal_trees(b, jax.tree.leaves(state))
    undisturbed = checkpoints.load_params(trained.workdir)[0]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), state.params, undisturbed)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_offered(trained, config):
    shutil.copytree(trained.workdir, config.workdir)
    newest = Path(config.workdir, "checkpoints", "20")
    for path in (newest / "train_state").rglob("*"):
        if path.is_file() and path.stat().st_size > 4000:
            path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoints/20 is damaged .*continue from .*checkpoints/10"):
        train(config)
    shutil.rmtree(newest)
    equal_trees(jax.device_get(train(config).params), checkpoints.load_params(trained.workdir)[0])


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(trained, config):
    """No file may grow beyond 100 kB: every write that a full disk would refuse fails."""
    shutil.copytree(trained.workdir, config.workdir)
    shutil.rmtree(Path(config.workdir, "checkpoints", "20"))

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    keep_no_program = {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"
    }  # cut off, it would harm other tests
    errors = end(start(config, environment=keep_no_program, preexec_fn=limit), 2)
    (line,) = [
        line for line in errors.splitlines() if "qt_jax train: " in line
    ]  # Orbax's threads print their own around it
    assert "cannot be written" in line and "the last complete checkpoint is" in line
    assert checkpoints.latest_step(config.workdir) == 10


def test_a_directory_that_cannot_be_written_is_one_line(config, tmp_path):
    (tmp_path / "file").write_text("")
    config.workdir = str(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot be written"):
        train(config)


def test_the_best_checkpoint_is_kept_beside_the_latest(config):
    config.train.keep_checkpoints, config.train.keep_best = 1, 1
    config.train.checkpoint_every = config.train.validate_every = 4
    train(config)
    measured = {
        r["step"]: r["validation/loss"] for r in metric_records(config.workdir) if "validation/loss" in r
    }
    kept = sorted(int(p.name) for p in Path(config.workdir, "checkpoints").iterdir())
    assert kept == sorted({20, min(measured, key=measured.get)})


def test_a_step_that_hangs_ends_the_run_with_every_stack(config):
    """A real hang: the data's only reading thread blocks for ever."""
    script = (
        "import sys, threading; from qt_jax.data import loader; from qt_jax.cli import main;"
        "sys.argv[0] = 'qt_jax';"
        "loader.SegmentReader.batch = lambda self, draws: threading.Event().wait(); main.run()"
    )
    command = [sys.executable, "-c", script, "train", "--config=tests/tiny.py"]
    command += [f"--config.data.path={config.data.path}", f"--config.workdir={config.workdir}"]
    command += ["--config.train.step_timeout_s=2"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == EXIT_HUNG
    assert (
        "did not end within config.train.step_timeout_s=2" in result.stderr
        and "Current thread" in result.stderr
        and "loop.py" in result.stderr
    )


def test_a_trace_is_written_for_the_chosen_steps(config):
    config.train.steps, config.train.profile_start, config.train.profile_steps = 4, 2, 2
    train(config)
    names = [p.name for p in Path(config.workdir, "profile").rglob("*") if p.is_file()]
    assert any(n.endswith(".xplane.pb") for n in names) and any("perfetto" in n for n in names)


def test_speed_and_goodput_are_logged(trained):
    last = [r for r in metric_records(trained.workdir) if "mfu" in r][-1]
    assert 0 < last["mfu"] < 1 and 0 < last["goodput"] < 1 and 0 <= last["data_wait_share"] <= 1


def cluster(port: int, process: int) -> list[str]:
    values = {
        "coordinator": f"127.0.0.1:{port}",
        "num_processes": 2,
        "process_id": process,
        "heartbeat_timeout_s": 10,
        "start_timeout_s": 240,
    }
    return [f"--config.distributed.{name}={value}" for name, value in values.items()]


def start_pair(config, port: int, *overrides: str) -> list[subprocess.Popen]:
    return [start(config, "--config.mesh.fsdp=2", *cluster(port, i), *overrides, devices=4) for i in range(2)]


@pytest.mark.slow
def test_two_processes_are_one_learner_and_one_killed_ends_the_other(config, free_port, tmp_path):
    """2 processes x 4 devices, fsdp 2: one is killed after step 10, and the other stops in time.

    Restarted, they end as if undisturbed. One process x 8 gives the same up to the order of sums.
    """
    pair = start_pair(config, free_port())
    wait_for(pair[0], Path(config.workdir, "checkpoints", "10").exists)
    pair[1].kill()
    killed = time.monotonic()
    assert "qt_jax train: process 1 died, so the others stop too" in end(pair[0], EXIT_PEER_LOST)
    assert time.monotonic() - killed < 10

    undisturbed, one = (config.copy_and_resolve_references() for _ in range(2))
    undisturbed.workdir, one.workdir = str(tmp_path / "undisturbed"), str(tmp_path / "one")
    for again in (config, undisturbed):
        for process in start_pair(again, free_port()):
            end(process, 0)
    end(start(one, "--config.mesh.fsdp=2", devices=8), 0)
    found, expected, single = (
        jax.device_get(train(run)) for run in (config, undisturbed, one)
    )  # restored on one device
    equal_trees(found, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, single)


def test_a_port_that_is_taken_is_one_line(free_port):
    settings = distributed.get_config()
    settings.coordinator, settings.num_processes, settings.process_id = f"127.0.0.1:{free_port()}", 2, 0
    with socket.create_server(("127.0.0.1", int(settings.coordinator.split(":")[1]))):
        with pytest.raises(UserError, match="Process 0 cannot listen on port"):
            distributed.start(settings)
    settings.heartbeat_timeout_s = 1
    with pytest.raises(UserError, match="heartbeat_timeout_s is 1; give 5"):
        distributed.start(settings)


def test_jobs_of_slurm_that_share_nodes_share_no_port(monkeypatch):
    for name, value in {"STEP_NODELIST": "n[3-4]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    taken = set()
    for job in (4095, 4096, 4097):  # the roll call takes the next port
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        found = distributed.find(distributed.get_config())
        host, port = found.coordinator.split(":")
        assert (host, found.num_processes, found.process_id) == ("n3", 2, 1) and int(port) < 65535
        taken |= {int(port), int(port) + 1}
    assert len(taken) == 6


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_falls_silent_or_fails_stops_the_other_by_name(config, free_port, number, tmp_path):
    """`number` is frozen as a host that lost its network is; then, in another run, it alone finds no data."""
    endless = "--config.train.steps=100000"
    pair = start_pair(config, free_port(), endless)
    wait_for(pair[0], Path(config.workdir, "checkpoints", "10").exists)
    pair[number].send_signal(signal.SIGSTOP)
    assert f"process {number} was not heard for config.distributed.heartbeat_timeout_s=10" in end(
        pair[1 - number], EXIT_PEER_LOST
    )
    pair[number].kill()

    other = config.copy_and_resolve_references()
    other.data.path = str(tmp_path / "nothing")
    configs = [other if i == number else config for i in range(2)]
    port = free_port()
    pair = [
        start(c, endless, "--config.mesh.fsdp=2", *cluster(port, i), devices=4) for i, c in enumerate(configs)
    ]
    assert f"process {number} stopped ({other.data.path} holds no RLDS dataset" in end(
        pair[1 - number], EXIT_PEER_LOST
    )
    assert "holds no RLDS dataset" in end(pair[number], EXIT_USER_ERROR)


@pytest.mark.slow
def test_a_step_that_hangs_on_one_process_ends_both_with_every_stack(config, free_port):
    bound = "--config.train.step_timeout_s=5", "--config.train.steps=100000"
    pair = start_pair(config, free_port(), *bound)
    wait_for(pair[0], Path(config.workdir, "checkpoints", "10").exists)
    pair[1].send_signal(signal.SIGSTOP)
    errors = end(pair[0], EXIT_HUNG)
    assert "process 1 was at: " in errors and "Current thread" in errors
    pair[1].send_signal(signal.SIGCONT)
    assert pair[1].wait(timeout=30) in (EXIT_HUNG, EXIT_PEER_LOST)


BARRIER_SCRIPT = """
import sys, jax, time
from qt_jax.training import peers
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
jax.devices()
if sys.argv[2] == "1":
    time.sleep(5)
else:
    peers.meet("the first step", 1)
"""


def test_who_is_missing_at_a_barrier_is_named(free_port):
    command = [sys.executable, "-c", BARRIER_SCRIPT, str(free_port())]
    pair = [
        subprocess.Popen([*command, str(i)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    _, errors = pair[0].communicate(timeout=60)
    pair[1].kill()
    pair[1].communicate()
    assert "UserError: Process 1 did not come to the barrier 'the first step' in time" in errors


def test_a_process_that_does_not_come_is_named(free_port):
    settings = distributed.get_config()
    settings.coordinator, settings.num_processes, settings.process_id = f"127.0.0.1:{free_port()}", 3, 0
    settings.start_timeout_s = 1
    missing = (
        r"Of 3 processes \[1, 2\] did not reach 127.0.0.1:\d+ within config.distributed.start_timeout_s=1"
    )
    with pytest.raises(UserError, match=missing):
        distributed.start(settings)
    settings.process_id = 1
    with pytest.raises(UserError, match=r"Of 3 processes \[0\] did not reach"):
        distributed.start(settings)
