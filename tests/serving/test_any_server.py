"""Policies behind the socket on a suite: our server's, and one of openpi-client's own classes."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import qt_jax
from examples import my_suite
from qt_jax.errors import UserError
from qt_jax.evaluation import evaluate, served
from qt_jax.policy.observations import Keys
from qt_jax.policy.requests import Decision
from qt_jax.policy.runtime import Runtime
from qt_jax.serving.client import Client
from qt_jax.specs import Interface, PolicySpec
from tests.conftest import ROOT
from tests.data.synthetic import unit_statistics
from tests.serving import fake

OPENPI = ROOT / ".openpi/bin/python"
openpi = pytest.mark.skipif(not OPENPI.exists(), reason="needs `make .openpi/.installed`")
THEIR_KEYS = {"state": ["observation.point"], "prompt": "task"}


@pytest.fixture
def config(tmp_path):
    config = my_suite.get_config()
    config.workdir = str(tmp_path / "served")
    config.evaluate.episodes, config.evaluate.num_envs, config.evaluate.videos = 5, 3, 1
    config.env.max_decisions = 14  # some starts are too far away
    return config


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(THEIR_KEYS))
    return str(file)


@pytest.fixture(scope="module")
def theirs():
    """The URL of a process of tests/serving/openpi_server.py."""
    command = [str(OPENPI), "-I", "tests/serving/openpi_server.py"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield f"ws://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


class Straight:
    """The same policy in this process, which decides two actions at once."""

    def act(self, requests):
        return [self._one(request) for request in requests]

    def _one(self, request):
        goal = my_suite.GOALS["left" if "left" in request.instruction else "right"]
        way = goal - request.state
        first = np.clip(way / 0.1, -1, 1)
        actions = np.stack([first, np.clip((way - 0.1 * first) / 0.1, -1, 1)])
        none = np.zeros(0, np.float32)
        return Decision(actions, none, none, np.nan, none, 0)

    def close(self, session):
        pass


@openpi
def test_a_server_of_openpis_classes_is_evaluated_as_the_same_policy_here(config, keys, theirs):
    found = qt_jax.evaluate(config, server=theirs, keys=keys, execute=2)
    here = config.copy_and_resolve_references()
    here.workdir += "_here"
    same = evaluate.evaluate(here, served.of_any_server(here, "here", Straight()))
    assert found["tasks"] == same["tasks"] and found["language"] == same["language"]
    assert 0 < found["overall"]["success"] < 1
    assert found["language"][0]["other"]["success"] == 0 and found["step"] is None
    assert found["method"] == f"policy at {theirs}"
    folder = Path(config.workdir)
    assert (folder / "report.html").read_text().count("<video") == 2
    assert (folder / evaluate.TABLE).read_text().splitlines()[1].split()[:2] == ["left", "-"]
    # All four actions of a reply: the last two undo the first.
    assert qt_jax.evaluate(config, server=theirs, keys=keys)["overall"]["success"] == 0


@openpi
def test_what_a_server_does_not_take_is_named(config, keys, theirs):
    with pytest.raises(UserError, match="answers \"KeyError: 'task'\"; expected a policy server's reply"):
        qt_jax.evaluate(config, server=theirs)
    with pytest.raises(UserError, match="--execute is 5, ws://.* answers 4 actions; give no more"):
        qt_jax.evaluate(config, server=theirs, keys=keys, execute=5)


@pytest.mark.parametrize(
    "reply, message",
    [
        ({"actions": np.zeros((2, 7))}, r"answers 'actions' \[2, 7\], expected 'actions' \[h, 2\] of x, y"),
        ({"action": np.zeros(2)}, r"answers the keys \['action'\], expected 'actions'"),
        ({"actions": np.full((1, 2), np.nan)}, "actions that are not finite"),
    ],
)
def test_actions_of_another_robot_are_refused(config, reply, message, monkeypatch):
    monkeypatch.setattr(Client, "infer", lambda self, observation: reply)
    monkeypatch.setattr(Client, "__init__", lambda self, *a, **k: self.__dict__.update(metadata={}))
    monkeypatch.setattr(Client, "disconnect", lambda self: None)
    with pytest.raises(UserError, match=message):
        qt_jax.evaluate(config, server="ws://it")


class Corners(Runtime):
    """Our policy, which goes straight too; the embedding's first number says where to."""

    def __init__(self):
        suite, env = my_suite.suite, my_suite.env_config()
        own = Interface(suite.action_spec(env), suite.observation_spec(env), 4)
        super().__init__(PolicySpec(own, (0, 1), 1, "none", "Q", 0.1), unit_statistics(2), 5)

    def _decide(self, episode, images, state, embedding, *rest):
        goal = np.stack([embedding[:, 0], np.full(len(state), 0.8)], axis=1)
        action = np.clip((goal - state) / 0.1, -1, 1)
        tokens = np.clip((action + 1) / 2 * 32, 0, 31).astype(np.int32)
        return tokens, np.zeros((len(tokens), 2, 32), np.float32)

    def correct(self, episode, tokens):
        pass

    def forget_all(self):
        pass


def test_our_own_server_under_its_own_names_and_a_robots(config, keys):
    training = {"agent": "bc", "episodes": "all", "step": 7}
    training["data"] = dict.fromkeys((*my_suite.TASKS, "all"), {"success": 0.5, "episodes": 2})
    about = {"artefact": "corners", "training": training}
    rows = []
    for file in ("", keys):
        names = Keys.read(file, Corners().spec.interface.observation) if file else None

        def embed(sentence):
            return np.asarray([-0.8 if "left" in sentence else 0.8, 0, 0, 0], np.float32)

        with fake.served(policy=Corners(), embed=embed, about=about, keys=names) as port:
            url = f"ws://127.0.0.1:{port}"
            found = qt_jax.evaluate(config, server=url, keys=file)
            rows.append((found["tasks"], found["language"]))
            with pytest.raises(UserError, match="--execute=2 is of other servers"):
                qt_jax.evaluate(config, server=url, keys=file, execute=2)
            with pytest.raises(UserError, match="give the config it was trained with"):
                qt_jax.evaluate(config, server=url, keys="" if file else keys)
    assert rows[0] == rows[1] and 0 < found["overall"]["success"] and found["method"] == "bc, all"


def test_a_state_under_several_keys_cannot_be_sent():
    observation = Corners().spec.interface.observation
    keys = dataclasses.replace(Keys.default(observation), state=("x", "y"))
    with pytest.raises(UserError, match=r"name \['x', 'y'\] for the state; give one"):
        keys.observation(None)
