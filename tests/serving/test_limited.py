"""Safety limits of a served policy: in reply, metadata and metrics, on the page and in the recording."""

import dataclasses
import json
import threading
import time
import urllib.request

import numpy as np
import pytest

from qt_jax.curation import robot_episodes
from qt_jax.policy.requests import Refused
from qt_jax.safety import SafetyLimits
from qt_jax.serving.client import Client
from qt_jax.serving.recording import Recorder
from qt_jax.serving.spool import Spool
from tests.serving import fake
from tests.serving.chromium import EXECUTABLE, Chromium

DIMS = {
    "x": {"kind": "absolute", "entry": 0, "change": 0.25, "stop": "last"},
    "y": {"kind": "delta", "stop": 0},
}
LIMITS = SafetyLimits.from_json(
    {"dims": DIMS, "on_stale": "stop", "stale_ms": 100, "on_refused": "stop", "hold_ms": None}
)
SPEC = dataclasses.replace(fake.SPEC, limits=LIMITS)
"""Of a policy that decides -0.75 in both dims."""


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
        return reply.read()


def seen(**more) -> dict:
    return fake.observation(**{"age_ms": 0.0} | more)


def test_what_the_limits_alter_is_said_counted_shown_and_recorded(tmp_path):
    with Spool(tmp_path / "recorded.episodes") as spool:
        recorder = Recorder(spool)
        with fake.served(spec=SPEC, recorder=recorder) as port, Client(f"ws://127.0.0.1:{port}") as robot:
            assert SafetyLimits.from_json(robot.metadata["limits"]) == LIMITS
            first = robot.infer(seen())
            np.testing.assert_allclose(first["actions"], [[-0.25, -0.75]])
            (one,) = first["limited"]
            assert one == {"limit": "change", "what": "x", "before": -0.75, "after": -0.25, "action": 0}
            stale = robot.infer(seen(age_ms=200))
            np.testing.assert_allclose(stale["actions"], [[-0.25, 0]])
            assert [(one["limit"], one["what"]) for one in stale["limited"]] == [("stale", "stop")]
            with pytest.raises(Refused) as refused:
                robot.infer(seen() | {"observation/state": np.zeros(9, np.float32)})
            np.testing.assert_allclose(refused.value.fallback, [-0.25, 0])
            with pytest.raises(Refused) as refused:
                robot.infer({"values": []})
            assert refused.value.fallback is None  # nobody waits for an action
            with pytest.raises(Refused, match="'limited' has 'spead': '1', expected counts of bounds, box"):
                robot.infer(seen(limited={"spead": 1}))
            robot.infer(seen(limited={"late": 3, "velocity": 1}))
            last = robot.infer(seen())
            assert "limited" not in last

            time.sleep(0.05)  # a reply is noted after it was sent
            metrics = get(port, "/metrics").decode()
            counted = {"change": 2, "stale": 1, "refused": 1}
            for limit, count in counted.items():
                assert f'qt_limited_total{{limit="{limit}"}} {count}.0' in metrics
            assert 'qt_limited_commands_total{limit="late"} 3.0' in metrics
            shown = json.loads(get(port, "/state"))["shown"]
            assert shown["limited_counts"] == counted and shown["limited"] == []
            assert shown["limited_commands"] == {"late": 3, "velocity": 1}
            fake.label(robot, "open the faucet")

        (episode,) = spool.read()
        assert episode.limited.tolist() == ["change", "late,stale,velocity", "change", ""]
        np.testing.assert_allclose(
            episode.actions, [[-0.25, -0.75], [-0.25, 0], [-0.5, -0.75], [-0.75, -0.75]]
        )
        spool.check(SPEC)
        (written,) = robot_episodes._recorded(spool.read(), SPEC, ("limited",))
        assert written.limited == ("change", "late,stale,velocity", "change", "")


def test_time_in_the_queue_counts_for_the_age(monkeypatch):
    """The device is busy with another robot while the observation waits."""
    decide = fake.Policy._decide

    def slow(self, episode, *inputs):
        time.sleep(0.15)
        return decide(self, episode, *inputs)

    with fake.served(spec=SPEC) as port:
        url = f"ws://127.0.0.1:{port}"
        with Client(url) as robot, Client(url) as other:
            robot.infer(seen())
            monkeypatch.setattr(fake.Policy, "_decide", slow)
            busy = threading.Thread(target=other.infer, args=(seen(),))
            busy.start()
            time.sleep(0.05)
            reply = robot.infer(seen(age_ms=40))
            busy.join(5)
    assert [one["limit"] for one in reply["limited"]] == ["stale"]


@pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium is installed (apt-get install chromium)")
def test_the_page_says_what_is_altered_now_and_how_often_it_was(tmp_path):
    about = {"artefact": "policy", "training": {"step": 1}}
    with fake.served(spec=SPEC, about=about) as port, Client(f"ws://127.0.0.1:{port}") as robot:
        robot.infer(seen(limited={"late": 2}))
        browser = Chromium(tmp_path)
        try:
            browser.open(f"http://127.0.0.1:{port}/")
            text = "document.querySelector('#limited:not([hidden])')?.textContent"
            browser.until(f"{text} !== undefined")
            altered = (
                "Safety limits altered this action (x by change, -0.75 → -0.25). In this session: change 1."
                " Commands in the robot's loop: late 2."
            )
            assert browser.evaluate(text) == altered
            assert "safety limits" in browser.evaluate("document.querySelector('#facts').textContent")
        finally:
            browser.close()
