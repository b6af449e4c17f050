"""Safety limits of the sessions of a policy: what acts, what the window sees, and what a refusal says."""

import json

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.export import any_policy
from qt_jax.policy.loaded import LoadedPolicy
from qt_jax.policy.observations import Keys
from qt_jax.policy.requests import Refused, Request
from qt_jax.policy.sessions import Sessions
from qt_jax.safety import SafetyLimits
from tests.models.test_q_transformer import WINDOW, make_network, make_params
from tests.policy.table_policy import TablePolicy
from tests.policy.test_jax_policy import make_policy
from tests.policy.test_sessions import EMBEDDINGS, frames_of

FRONT = {"front": np.zeros((16, 16, 3), np.uint8)}
DIMS = {
    "x": {"kind": "absolute", "entry": 0, "change": 0.25, "stop": "last"},
    "y": {"kind": "delta", "velocity": 2, "stop": 0},
    "g": {"stop": 1},
}
"""Of a TablePolicy, which decides 0.5, -0.5 and 0.5 with two bins over [-1, 1] in each dim."""
STALE = {"on_stale": "hold", "stale_ms": 100, "hold_ms": 150}


def sessions_of(chunk=1, **more) -> Sessions:
    limits = SafetyLimits.from_json({"dims": DIMS} | more)
    return Sessions(TablePolicy(chunk=chunk, execute=min(chunk, 2), limits=limits), EMBEDDINGS.get)


def asked(x=0.0, **more) -> Request:
    return Request(0, FRONT, np.asarray([x, 0, 0, 0], np.float32), "open", **more)


def test_what_acts_is_inside_the_limits_and_what_is_said_is_what_was_decided():
    sessions = sessions_of()
    first, second = (sessions.act([asked(-0.5)])[0] for _ in range(2))
    np.testing.assert_allclose(first.actions, [[-0.25, -0.2, 0.5]], atol=1e-6)
    np.testing.assert_allclose(second.actions, [[0, -0.2, 0.5]], atol=1e-6)  # from what was sent
    assert [(one.limit, one.what) for one in first.limited] == [("change", "x"), ("velocity", "y")]
    assert first.tokens.tolist() == second.tokens.tolist() == [1, 0, 1]
    assert sessions.policy.corrected == [[0, 0, 1], [1, 0, 1]]  # bins of what was executed
    (again,) = sessions.act([asked(-0.5, reset=True)])
    np.testing.assert_allclose(again.actions[0, 0], -0.25, atol=1e-6)


def test_each_action_of_a_chunk_goes_on_from_the_one_before():
    sessions = sessions_of(chunk=3)
    (decision,) = sessions.act([asked(-0.5)])
    np.testing.assert_allclose(decision.actions[:, 0], [-0.25, 0], atol=1e-6)
    assert [one.action for one in decision.limited if one.what == "x"] == [0, 1]
    assert sessions.policy.corrected == [[0, 0, 1, 1, 0, 1, 1, 0, 1]]  # the third is not executed


def test_a_robot_that_asks_before_the_end_of_a_chunk_goes_on_from_the_action_that_it_took():
    sessions = sessions_of(chunk=3)
    sessions.act([asked(-0.5)])
    (decision,) = sessions.act([asked(-0.5, taken=1)])
    np.testing.assert_allclose(decision.actions[:, 0], [0, 0.25], atol=1e-6)
    for taken in (0, 3):
        with pytest.raises(Refused, match=f"'taken' is {taken}, expected 1 to 2 actions"):
            sessions.act([asked(taken=taken)])


def test_the_limits_go_on_from_what_a_person_did():
    sessions = sessions_of()
    sessions.act([asked(-0.5)])
    person = np.float32([[-1.0, 0, 0]])
    (decision,) = sessions.act([asked(-0.5, intervention=person)])
    np.testing.assert_allclose(decision.actions[0, 0], -0.75, atol=1e-6)
    for bad in (person[:, :2], np.full((1, 3), np.nan)):
        with pytest.raises(Refused, match="Key 'intervention' is .*expected 3 finite numbers"):
            sessions.act([asked(intervention=bad)])


def test_robots_have_limits_of_their_own():
    sessions = sessions_of()
    one, other = sessions.act([asked(-0.5), Request(1, FRONT, np.full(4, 0.5, np.float32), "open")])
    np.testing.assert_allclose([one.actions[0, 0], other.actions[0, 0]], [-0.25, 0.5], atol=1e-6)


def test_a_stale_observation_holds_and_then_stops():
    sessions = sessions_of(**STALE)
    (fresh,) = sessions.act([asked(0.5, age_ms=100)])
    held, stopped = (sessions.act([asked(0.5, age_ms=101)])[0] for _ in range(2))
    np.testing.assert_array_equal(held.actions, fresh.actions)
    np.testing.assert_allclose(stopped.actions, [[0.5, 0, 1]])
    assert [(d.limited[0].limit, d.limited[0].what) for d in (held, stopped)] == [
        ("stale", "hold"),
        ("stale", "stop"),
    ]
    assert sessions.policy.corrected[-1] == [1, 1, 1] and stopped.step == 2


@pytest.mark.parametrize("more", [{}, {"reset": True}])
def test_a_stale_observation_begins_no_episode(more):
    sessions = sessions_of(**STALE)
    if more:
        sessions.act([asked(age_ms=0)])
    with pytest.raises(Refused, match="is 300 ms old, the limits allow 100, .*send a newer") as caught:
        sessions.act([asked(age_ms=300.0, **more)])
    assert caught.value.code == "stale" and len(sessions) == len(more)


def test_an_observation_without_its_age_is_refused_where_the_limits_need_it():
    with pytest.raises(Refused, match="has no 'age_ms', which the policy's limits need"):
        sessions_of(**STALE).act([asked()])


def test_a_refusal_says_what_the_robot_does_instead():
    policy = LoadedPolicy(sessions_of(on_refused="stop"), Keys({"front": "front"}, ("state",)))
    seen = {"front": FRONT["front"], "state": np.zeros(4), "prompt": "open"}
    for bad in ({"state": np.zeros(3)}, {"prompt": ""}, {"age_ms": -1}, {"session_id": [1]}):
        with pytest.raises(Refused) as caught:
            policy.infer(seen | bad)
        assert caught.value.fallback is None  # the robot has not moved yet
    assert "limited" in policy.infer(seen)
    for bad in ({"state": np.zeros(3)}, {"prompt": ""}, {"age_ms": -1}):
        with pytest.raises(Refused) as caught:
            policy.infer(seen | bad)
        np.testing.assert_allclose(caught.value.fallback, [0.25, 0, 1], atol=1e-6)
    assert policy.infer(seen)["step"] == 1


def test_the_window_sees_what_was_executed():
    """A return-conditioned network on jax: as if the limited action had been decided."""
    network = make_network(return_conditioned=True)
    policy = make_policy(network, make_params(network), capacity=2)
    policy.warm_up()
    other, scores = None, {}
    for way in ("corrected", "said at once", "not said"):
        for t, ((images, state), first) in enumerate(zip(frames_of(5, WINDOW), [True] + [False] * WINDOW)):
            inputs = {name: image[None] for name, image in images.items()}, state[None]
            said = other if way == "said at once" and t == 0 else None
            found = policy.act(
                np.zeros(1, int), *inputs, EMBEDDINGS["open"][None], np.asarray([first]), executed=said
            )
            if t == 0:
                other = np.where(found.tokens == 0, 1, 0).astype(np.int32)
                if way == "corrected":
                    policy.correct(0, other[0])
        scores[way] = found.scores
    np.testing.assert_array_equal(scores["corrected"], scores["said at once"])
    assert not np.allclose(scores["corrected"], scores["not said"], atol=1e-3)


def test_limits_of_an_artefact_are_its_own(tmp_path):
    file = tmp_path / "limits.json"
    file.write_text(json.dumps({"dims": {"x": {"low": 0}}}))
    with pytest.raises(
        UserError, match="limits='.*limits.json' is of a run; .* export the run with --limits"
    ):
        any_policy.load(tmp_path, limits=str(file))
