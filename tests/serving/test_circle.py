"""The whole circle with a policy that solves its tasks: collect, train, export, serve, record and train."""

import json
import re
import struct
import subprocess

import numpy as np
import pytest

from benchmarks import fleet, packs
from qt_jax.envs import metaworld
from qt_jax.envs import metaworld_tasks as tasks
from qt_jax.policy.requests import Refused
from qt_jax.serving import wire
from qt_jax.serving.client import Client
from qt_jax.training import checkpoints
from tests import skilled
from tests.conftest import ROOT, run_command
from tests.serving.conftest import Serving, serve

CONFIG = "tests/skilled.py"
OPENPI = ROOT / ".openpi/bin/python"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skilled")
    run_command("collect", f"--config.data.path={folder / 'data'}", config=CONFIG)
    run_command("train", f"--config.data.path={folder / 'data'}", f"--config.workdir={folder}", config=CONFIG)
    run_command("export", f"--config.workdir={folder}", config=CONFIG)
    return folder


@pytest.fixture(scope="module")
def recording(workdir):
    serving = serve(
        workdir / "policy", workdir / "log", "--max_sessions=4", f"--record={workdir / 'recorded'}"
    )
    yield serving
    serving.process.kill()


def episode(act, task: str, seed: int, finish) -> bool:
    """Runs an episode of the real simulator; returns whether it succeeded.

    `finish` gets the observation after the last action, the outcome and the task.
    """
    env = metaworld.Environment(task, skilled.get_config().env)
    try:
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False

        def seen():
            return {"observation/state": observation["state"], "prompt": tasks.INSTRUCTIONS[task][0]}

        first = {"reset": True}
        while not (terminated or truncated):
            observation, _, terminated, truncated, _ = env.step(act(seen() | first)["actions"][0])
            first = {}
        finish(seen(), terminated, task)
        return terminated
    finally:
        env.close()


class Robot:
    """A process of tests/serving/openpi_robot.py."""

    def __init__(self, *arguments: str):
        command = [str(OPENPI), "-I", "tests/serving/openpi_robot.py", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, data: bytes) -> dict:
        self._process.stdin.write(struct.pack("<I", len(data)) + data)
        self._process.stdin.flush()
        (size,) = struct.unpack("<I", self._process.stdout.read(4))
        return wire.unpack(self._process.stdout.read(size))

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(timeout=10) == 0


@pytest.mark.skipif(not OPENPI.exists(), reason="needs `make .openpi/.installed`")
def test_openpi_client_drives_two_episodes_in_a_row_to_success(recording: Serving):
    """The client is unmodified, in a venv of its own.

    An episode begins by `reset`, and also by a new connection.
    """
    robot = Robot(recording.url)
    assert robot.ask(b"")["action"]["names"] == ["x", "y", "z", "grip"]
    steps = []

    def act(message):
        reply = robot.ask(wire.pack(message))
        steps.append(reply["step"])
        return reply

    def ignore(last, success, task):
        return None

    assert episode(act, "faucet-open", 1, ignore) and episode(act, "drawer-close", 2, ignore)
    assert steps.count(0) == 2

    refused = json.loads(robot.ask(wire.pack({"prompt": "open"}))["refused"].split("\n", 1)[1])
    assert refused["error"] == "bad_observation" and "observation/state" in refused["message"]

    robot.ask(b"")  # a new client

    def without_reset(message):
        return act({key: value for key, value in message.items() if key != "reset"})

    assert episode(without_reset, "faucet-open", 3, ignore) and steps.count(0) == 3
    robot.end()


def test_a_served_policy_is_evaluated_and_what_it_did_is_trained_on(recording: Serving, workdir):
    remote = f"--policy={recording.url}", f"--config.workdir={workdir / 'remote'}"
    evaluation = run_command("evaluate", *remote, "--config.evaluate.episodes=2", config=CONFIG)
    run_command("evaluate", f"--config.workdir={workdir}", "--config.evaluate.episodes=2", config=CONFIG)
    remote, local = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (workdir / "remote", workdir)
    )
    assert remote["tasks"] == local["tasks"] and remote["method"] == local["method"], evaluation.stdout

    client, outcomes = Client(recording.url), []

    def aged(message):
        return client.infer(message | {"age_ms": 40})

    for seed in range(4):
        outcomes.append(episode(aged, "faucet-open", 10 + seed, client.label))
    seen = {"observation/state": np.zeros(39, np.float32), "prompt": "open the faucet"}
    client.infer(seen)
    with pytest.raises(Refused, match="key 'observation/state' holds NaN"):
        client.label(seen | {"observation/state": np.full(39, np.nan, np.float32)}, False)
    client.infer(seen | {"reset": True})

    def stand_still(message):
        return client.infer(message) | {"actions": np.zeros((1, 4))}

    failed = episode(stand_still, "drawer-close", 5, client.label)
    client.infer(seen | {"reset": True})  # gets no label
    client.disconnect()
    assert sum(outcomes) >= 3 and not failed
    assert recording.end() == 0

    shown = run_command("inspect", f"--data={workdir / 'recorded'}", config="").stdout
    assert "episodes      5: " in shown and f"{sum(outcomes) / 5:.1%} successful" in shown
    assert re.search(r"ages +of \d+ observations: median 4\d", shown) and "more do not tell it" in shown
    assert run_command("validate", f"--data={workdir / 'recorded'}", config="").returncode == 0
    paths = f"--config.data.path={workdir / 'recorded'}", f"--config.workdir={workdir / 'again'}"
    settings = "--config.train.steps=5", "--config.data.validation_fraction=0.0", "--config.train.log_every=1"
    run_command("train", *paths, *settings, config=CONFIG)
    assert (workdir / "again" / "checkpoints" / "5").exists()


@pytest.mark.slow
def test_what_the_benchmark_measures_of_a_policy_is_what_evaluate_does(workdir, tmp_path):
    """The time limit is one at which about half of the episodes have succeeded."""
    config = skilled.get_config()
    config.data.path, config.evaluate.max_decisions = str(workdir / "data"), 14
    packs.write({"skilled": config}, tmp_path / "pack")
    content = packs.read(tmp_path / "pack")
    (job,) = content.jobs
    params, *_ = checkpoints.load_params(str(workdir))
    found = fleet.evaluate(content, job, job.members[0], params, fleet.Environments(config))
    run_command(
        "evaluate", f"--config.workdir={workdir}", "--config.evaluate.max_decisions=14", config=CONFIG
    )
    rows = json.loads((workdir / "evaluation.json").read_text())["tasks"]
    success = {task: row["success"] for task, row in rows.items()}
    assert {task: np.mean(episodes) for task, episodes in found.items()} == success
    assert any(0 < share < 1 for share in success.values()), rows
