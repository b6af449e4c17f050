"""A shadow policy: it sees everything, is compared and recorded, delays nobody and is never sent."""

import dataclasses
import json
import threading
import time
import urllib.request

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.safety import SafetyLimits
from qt_jax.serving.client import Client
from qt_jax.serving.recording import Recorder
from qt_jax.serving.spool import Spool
from tests.serving import fake
from tests.serving.test_policies import served

SPEC = dataclasses.replace(fake.SPEC, dt=30.0)
"""Whose shadow has half a minute for a decision."""


def state(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=10) as reply:
        return json.load(reply)["shadow"]


def until(port: int, compared: int, dropped: dict) -> dict:
    deadline = time.monotonic() + 10
    while (found := state(port))["compared"] != compared or found["dropped"] != dropped:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_what_it_would_do_is_compared_shown_and_recorded_and_not_sent(tmp_path):
    with Spool(tmp_path / "served.episodes") as spool:
        with (
            fake.served(spec=SPEC, shadow=served("b", 2, spec=SPEC), recorder=Recorder(spool)) as port,
            Client(f"ws://127.0.0.1:{port}") as robot,
        ):
            assert state(port) == {
                "artefact": "policy b", "fingerprint": "b", "compared": 0, "dropped": {}, "difference": {},
            }  # fmt: skip
            for number in range(3):
                reply = robot.infer(fake.observation(number, "open"))
                assert reply["actions"].tolist() == [[-0.75, -0.75]] and "policy" not in reply
                assert until(port, number + 1, {})["difference"] == {"x": 1.0, "y": 1.0}
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as metrics:
                assert b'qt_shadow_total{result="compared"} 3.0' in metrics.read()
            fake.label(robot)
        (episode,) = spool.read()
        np.testing.assert_array_equal(episode.actions, np.full((3, 2), -0.75, np.float32))
        np.testing.assert_array_equal(episode.shadow, np.full((3, 2), 0.25, np.float32))
        assert spool.has_shadow()


def test_it_delays_nobody_and_what_comes_too_late_is_dropped_and_counted(tmp_path):
    slow, free = served("b", 2), threading.Event()
    decide = slow.sessions.policy._decide

    def held(*inputs):
        free.wait()
        return decide(*inputs)

    slow.sessions.policy._decide = held
    with Spool(tmp_path / "served.episodes") as spool:
        with (
            fake.served(shadow=slow, recorder=Recorder(spool)) as port,
            Client(f"ws://127.0.0.1:{port}", timeout_s=5) as robot,
        ):
            for number in range(4):
                assert robot.infer(fake.observation(number, "open"))["step"] == number
                until(port, 0, {"superseded": number - 1} if number > 1 else {})
            time.sleep(0.15)  # more than a control step
            free.set()
            found = until(port, 0, {"superseded": 2, "late": 2})
            assert found["difference"] == {}
            fake.label(robot)
            robot.infer(fake.observation(0, "open"))
        (episode,) = spool.read()
        assert np.isnan(episode.shadow).all() and episode.shadow.shape == (4, 2) and not spool.has_shadow()


def test_when_it_fails_robots_go_on_and_it_takes_part_again_with_the_next_episode():
    broken = served("b", 2, spec=SPEC)
    decide = broken.sessions.policy._decide
    with fake.served(spec=SPEC, shadow=broken) as port, Client(f"ws://127.0.0.1:{port}") as robot:
        broken.sessions.policy._decide = None
        robot.infer(fake.observation())
        until(port, 0, {"internal": 1})
        broken.sessions.policy._decide = decide
        assert robot.infer(fake.observation())["step"] == 1
        until(port, 0, {"internal": 1, "episode_lost": 1})
        robot.infer(fake.observation(reset=True))
        until(port, 1, {"internal": 1, "episode_lost": 1})


def test_its_limits_go_on_from_what_the_robot_did():
    """Each may move x by 0.25 in a step from where the robot was sent: the shadow one step ahead of it."""
    dims = {
        "x": {"kind": "absolute", "entry": 0, "change": 0.25, "stop": "last"},
        "y": {"kind": "delta", "stop": 0},
    }
    spec = dataclasses.replace(SPEC, limits=SafetyLimits.from_json({"dims": dims}))
    shadow = served("b", 3, spec=spec)  # wants 0.75
    with fake.served(spec=spec, shadow=shadow) as port, Client(f"ws://127.0.0.1:{port}") as robot:
        for number, x in enumerate((-0.25, -0.5, -0.75)):
            assert robot.infer(fake.observation())["actions"][0, 0] == x
            found = until(port, number + 1, {})
        # It would go to 0.25 from 0, to 0 from -0.25, to -0.25 from -0.5: always half a unit away.
        assert found["difference"] == {"x": 0.5, "y": 1.5}


def test_that_of_another_robot_is_refused():
    with pytest.raises(UserError, match="policy b has control period 30.0, the policy that is served 0.1"):
        with fake.served(shadow=served("b", spec=SPEC)):
            pass
