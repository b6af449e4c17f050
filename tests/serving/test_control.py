"""The control loop, tick by tick: hand-made chunks, a fake clock, late replies, and a real server."""

import functools
import json
import re
import subprocess
import time
from concurrent.futures import Future

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused
from qt_jax.serving import control
from qt_jax.serving.client import Client, EpisodeLost
from qt_jax.serving.control import ControlLoop
from tests.conftest import ROOT, SENTENCES
from tests.serving import fake
from tests.serving.conftest import Serving
from tests.serving.test_control_chunks import actions

LIMITS = {
    "dims": {"x": {"kind": "absolute", "stop": "last"}, "y": {"kind": "delta", "stop": 0}},
    "on_late": "hold",
    "late_ms": 100,
    "hold_ms": 200,
}


class Policy:
    """Of x absolute and y delta, which decides `execute` actions; the test says when and what it answers."""

    def __init__(self, execute=2, window=1, limits=LIMITS):
        self.metadata = {
            "observation": {"state": {"dtype": "float", "shape": [2]}, "prompt": {"dtype": "str"}},
            "action": {"names": ["x", "y"], "low": [-9, -9], "high": [9, 9], "bins": [8, 8]},
            "instruction_embedding": {"instead_of": "prompt"},
            "control_period_s": 0.1,
            "execute": execute,
            "window": window,
            "limits": limits,
        }

    def infer(self, message):
        raise AssertionError("the test answers")


class Robot:
    def __init__(self):
        self.moves = []

    def observe(self):
        return {"state": np.zeros(2, np.float32)}

    def move(self, action):
        self.moves.append(action.tolist())


class Run:
    """A loop that is run tick by tick, in the place of its `Rate` and of its thread.

    answers: {tick before which the request under way is answered: actions, or an error}.

    Attributes:
        asked: (tick, message) of each request.
        sent: what was sent at each tick, or None.
        error: that ended it.
    """

    def __init__(self, monkeypatch, answers, steps, policy=None, **options):
        self.asked, self.sent, self.error, self.robot = [], [], None, Robot()
        self._answers, self._reply = answers, None
        monkeypatch.setattr(control, "in_thread", self._ask)
        monkeypatch.setattr(control, "Rate", lambda hz: self)
        self.loop = ControlLoop(policy or Policy(), self.robot, **options)
        self._last = steps * self.loop._count
        try:
            self.loop.run("open", steps)
        except UserError as error:
            self.error = error

    def _ask(self, function, message, name):
        self._reply = Future()
        self.asked.append((len(self.sent), message))
        return self._reply

    def wait(self):
        new = self.robot.moves[sum(move is not None for move in self.sent) :]
        self.sent.append(new[0] if new else None)
        answer = self._answers.get(len(self.sent))
        if isinstance(answer, Exception):
            self._reply.set_exception(answer)
        elif answer is not None:
            self._reply.set_result({"actions": answer})
        if len(self.sent) == self._last and not self._reply.done():  # for which the end of the run waits
            self._reply.set_result({"actions": actions(0)})

    def report(self):
        return {}

    def of(self, dim):
        """Returns what was sent of a dim at each tick."""
        return [None if move is None else round(move[dim], 4) for move in self.sent]


@pytest.fixture
def run(monkeypatch):
    return functools.partial(Run, monkeypatch)


def test_the_next_chunk_is_decided_while_the_last_one_is_executed(run):
    made = run({1: actions(1, 2), 3: actions(3, 4), 5: actions(5, 6)}, steps=6)
    assert made.of(0) == [None, 1, 2, 3, 4, 5]
    assert [tick for tick, _ in made.asked] == [0, 2, 4]
    assert [message["reset"] for _, message in made.asked] == [True, False, False]
    assert made.asked[0][1]["prompt"] == "open"
    assert made.robot.moves[-1] == [5, 0]  # the stop action, at the end


def test_actions_are_interpolated_to_the_rate_of_the_controller(run):
    made = run({1: actions(0, 1), 5: actions(2, 2)}, steps=4, hz=20)
    assert made.of(0) == [None, 0, 0, 0.5, 1, 1.5, 2, 2]
    assert made.of(1)[3:6] == [0.5, 0.5, 1]
    assert [tick for tick, _ in made.asked] == [0, 4]


def test_a_late_reply_holds_then_stops_and_the_policy_is_told(run):
    """An action lasts a tick of 100 ms: one is waited for, two are held."""
    made = run({1: actions(1, 2), 8: actions(7, 8), 9: actions(9, 9)}, steps=10)
    assert made.of(0) == [None, 1, 2, None, 2, 2, 2, 2, 7, 8]
    assert made.of(1)[4:8] == [2, 2, 0, 0]  # y stops
    report = made.loop.report()
    assert report["limited"] == {"late": 4} and report["replies"] == 3
    assert [message.get("limited") for _, message in made.asked] == [None, None, {"late": 4}]


@pytest.mark.parametrize("state", [np.full(2, np.nan), np.zeros(3), None])
def test_a_state_that_is_none_does_not_move_the_workspace(run, monkeypatch, state):
    """The policy refuses it; the box goes on from the state before and what was sent since."""
    dims = {"x": LIMITS["dims"]["x"], "y": {"kind": "delta", "entry": 1, "box": [-1, 1.5], "stop": 0}}
    states = iter([np.zeros(2), *[state] * 9])
    monkeypatch.setattr(Robot, "observe", lambda self: {} if (s := next(states)) is None else {"state": s})
    made = run({1: actions(1, 1), 3: actions(1, 1)}, steps=5, policy=Policy(limits=LIMITS | {"dims": dims}))
    assert made.of(1) == [None, 1, 0.5, 0, 0]


def test_an_absolute_dim_starts_from_where_the_robot_is(run):
    dims = LIMITS["dims"] | {"x": {"kind": "absolute", "entry": 0, "stop": "last"}}
    made = run({1: actions(2, 2)}, steps=2, hz=40, policy=Policy(limits=LIMITS | {"dims": dims}))
    assert made.of(0)[:5] == [None, 0.5, 1, 1.5, 2]


def test_a_refusal_falls_back_at_once_and_is_asked_again(run):
    refused = LIMITS | {"on_refused": "stop"}
    answers = {1: actions(1, 2), 3: Refused("bad_observation", "no"), 5: actions(5, 6)}
    made = run(answers, steps=6, policy=Policy(limits=refused))
    assert made.of(0) == [None, 1, 2, 2, 2, 5]
    assert [tick for tick, _ in made.asked] == [0, 2, 4]
    assert made.loop.report()["limited"] == {"refused": 2} and made.loop.report()["refused"] == 1


@pytest.mark.parametrize("steps", [1, 6])
def test_a_first_observation_that_is_refused_moves_nothing(run, steps):
    """Also where the reply comes after the last step."""
    made = run({1: Refused("bad_observation", "no such key")}, steps=steps)
    assert str(made.error) == "no such key" and made.robot.moves == []


def test_the_last_reply_is_counted_and_not_done(run):
    made = run({1: actions(1, 2), 4: actions(5, 6)}, steps=4)
    assert made.of(0) == [None, 1, 2, None] and made.loop.report()["replies"] == 2


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_are_a_whole_number(run, steps):
    made = run({}, steps=steps)
    assert f"steps is {steps}; give a whole number above 0" in str(made.error) and made.asked == []


@pytest.mark.parametrize("begins", [0, 1])
def test_a_lost_episode_stops_the_robot_or_begins_anew(run, begins):
    made = run({1: actions(1, 2), 3: EpisodeLost("gone"), 4: actions(3, 4)}, steps=5, begins=begins)
    if begins:
        assert made.error is None and made.of(0) == [None, 1, 2, None, 3]
        assert [message["reset"] for _, message in made.asked] == [True, False, True]
    else:
        assert isinstance(made.error, EpisodeLost) and made.robot.moves[-1] == [2, 0]


def test_a_policy_that_sees_one_frame_is_asked_at_every_step_and_its_chunks_averaged(run):
    first, second = actions(0, 1, 2, 3), actions(11, 12, 13, 14)
    made = run({1: first, 2: second}, steps=4, policy=Policy(execute=4), ensemble=0.0)
    assert made.of(0) == [None, 1, (2 + 12) / 2, (3 + 13) / 2]
    assert [message.get("taken") for _, message in made.asked] == [None, 1, 1]
    assert [tick for tick, _ in made.asked] == [0, 1, 2]


def test_the_limits_hold_for_each_command(run):
    dims = {"x": {"kind": "absolute", "entry": 0, "velocity": 5, "stop": "last"}, "y": LIMITS["dims"]["y"]}
    made = run({1: actions(2, 2)}, steps=2, hz=20, policy=Policy(limits=LIMITS | {"dims": dims}))
    assert made.of(0) == [None, 0.25, 0.5, 0.75]  # 5 units/s at 20 commands a second
    assert made.loop.report()["limited"] == {"velocity": 3}


@pytest.mark.parametrize(
    "options, policy, words",
    [
        ({"hz": 25}, {}, "hz is 25; give a multiple of the policy's rate, 10 Hz"),
        ({"hz": 5}, {}, "hz is 5; give a multiple"),
        ({"hz": float("inf")}, {}, "hz is inf"),
        ({"every": 1}, {}, "every is 1; without ensemble an observation is taken each 2 steps"),
        ({"ensemble": -1}, {}, "ensemble is -1; give 0 or more"),
        ({"ensemble": 0.01, "every": 3}, {}, "every is 3; a decision has 2 actions"),
        ({"ensemble": 0.01}, {"window": 4}, "the policy sees 4 frames that are so far apart"),
        (
            {},
            {"limits": None},
            "The policy has no safety limits, so nothing says what is done at a late reply",
        ),
        ({}, {"limits": {"dims": {"x": {"low": 0}}}}, "The limits have no on_late"),
        ({"limits": "x.json"}, {}, "limits=x.json is given, and the policy has limits of its own"),
        (
            {"hz": 20},
            {"limits": LIMITS | {"dims": {n: {"stop": 0} for n in "xy"}}},
            r"the dims \['x', 'y'\] are",
        ),
        ({}, {"limits": LIMITS | {"dims": {"x": {"stop": 0}}}}, "'y': stop is missing"),
    ],
)
def test_what_does_not_fit_the_policy_is_refused_before_the_robot_moves(options, policy, words):
    with pytest.raises(UserError, match=words):
        ControlLoop(Policy(**policy), Robot(), **options)


def test_a_server_of_another_kind_is_named():
    policy = Policy()
    policy.metadata = {"model": "pi0"}
    with pytest.raises(UserError, match="metadata lacks 'observation', which the loop needs"):
        ControlLoop(policy, Robot())


class Black:
    """A robot that sees black and keeps its commands."""

    def __init__(self, expected: dict):
        self.moves, self._arrays = [], {key: form for key, form in expected.items() if "shape" in form}

    def observe(self):
        return {key: np.zeros(form["shape"], form["dtype"]) for key, form in self._arrays.items()}

    def move(self, action):
        self.moves.append(action)


def test_a_real_server_over_the_socket(served: Serving, tmp_path):
    with Client(served.url) as client:
        names = client.metadata["action"]["names"]
        dims = {name: {"kind": "delta", "velocity": 0.5, "stop": 0} for name in names}
        (tmp_path / "limits.json").write_text(json.dumps(LIMITS | {"dims": dims}))
        robot, period = Black(client.metadata["observation"]), client.metadata["control_period_s"]
        loop = ControlLoop(client, robot, hz=2 / period, limits=tmp_path / "limits.json")
        report = loop.run(SENTENCES[0], steps=8)
        step = client.infer(robot.observe() | {"prompt": SENTENCES[0]})["step"]
    assert step == report["replies"] >= 1
    assert report["rate"]["ticks"] == 16
    assert np.abs(robot.moves).max() <= 0.5 * period / 2 + 1e-6
    assert robot.moves[-1].tolist() == [0] * len(names)


def test_a_server_that_ends_stops_the_robot(tmp_path):
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    with fake.served() as port:
        client = Client(f"ws://127.0.0.1:{port}", timeout_s=0.3, reconnect_s=0.3)
        robot = Black(client.metadata["observation"])
        loop = ControlLoop(client, robot, limits=tmp_path / "limits.json", begins=1)
        assert loop.run("open", steps=2)["replies"] >= 1
    with client, pytest.raises(UserError, match="does not answer"):
        loop.run("open")
    assert robot.moves[-1][1] == 0


ROBOT = ROOT / ".robot/bin/python"
PROGRAM = """
import sys, time
import numpy as np
sys.modules["jax"] = None
from qt_jax.serving.client import Client, EpisodeLost
from qt_jax.serving.control import ControlLoop

class Robot:
    moves = []

    def observe(self):
        front = np.zeros((64, 64, 3), np.uint8)
        return {"observation/front": front, "observation/state": np.zeros(3, np.float32)}

    def move(self, action):
        self.moves.append(action.tolist())

url, limits = sys.argv[1:]
with Client(url, timeout_s=5) as client:
    assert ControlLoop(client, Robot(), hz=20, limits=limits).run("open", steps=20)["replies"]
with Client(url, timeout_s=0.2, reconnect_s=5) as client:
    try:
        client.infer(Robot().observe() | {"prompt": "open"})
    except EpisodeLost as error:
        print(Robot.moves[-1], error)
"""


@pytest.mark.slow
def test_a_robot_of_python_3_10_without_jax(tmp_path, monkeypatch):
    assert ROBOT.exists(), "run `make .robot/.installed` first, as `make test-slow` does"
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    decide = fake.Policy._decide
    monkeypatch.setattr(fake.Policy, "_decide", lambda *inputs: time.sleep(0.4) or decide(*inputs))
    with fake.served() as port:
        command = [ROBOT, "-c", PROGRAM, f"ws://127.0.0.1:{port}", tmp_path / "limits.json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"\[-0.75.*, 0.0\] .* did not answer within 0.2 s; the episode is lost.*\n", done.stdout
    )
