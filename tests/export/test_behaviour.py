"""The behaviour head's probabilities beside the scores: from the program to the page and the report."""

import json

import numpy as np
import pytest

from qt_jax.agents import awac, q_transformer
from qt_jax.errors import UserError
from qt_jax.evaluation import plots, rollouts
from qt_jax.evaluation.rollouts import Job
from qt_jax.export import agreement
from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions
from qt_jax.serving.dashboard import Dashboard
from qt_jax.specs import Decoding
from tests.export.test_ranking import ONE, ROBOT, drawn_by_hand

EXPECTED = [[0.25, 0.75, 0.0], [0.2, 0.5, 0.3]]
"""Of the robot's dims g and x, in its own order; the gripper's third bin does not exist."""


def policy_of(decode, agent=q_transformer, **settings):
    settings = settings or {"behaviour_weight": 1.0, "support": 0.7}
    return drawn_by_hand(Decoding.read(decode), ROBOT, agent, **settings)


def act(policy):
    drawn = {"uniforms": np.full((1, 3, 2), 0.5, np.float32)} if policy.spec.decoding.draws else {}
    return policy.act(np.zeros(1, int), **ONE, is_first=[True], **drawn)


@pytest.mark.parametrize("decode", ["greedy", "beam:2", "rank:3"])
def test_the_probabilities_are_those_of_all_bins_whatever_decides(decode):
    """Also of bins that support leaves out of the maximum."""
    found = act(policy_of(decode))
    np.testing.assert_allclose(found.behaviour[0], EXPECTED, rtol=1e-5)
    np.testing.assert_array_equal(np.isfinite(found.scores[0]), [[False, True, False], [False, True, False]])
    assert found.tokens[0].tolist() == [1, 1]


def test_policies_without_the_head_have_none():
    """AWAC's scores are its policy's probabilities already."""
    for policy in (policy_of("greedy", awac, temperature=1.0), policy_of("greedy", behaviour_weight=0.0)):
        assert not policy.spec.behaviour and act(policy).behaviour is None


def test_an_export_with_other_probabilities_is_refused():
    one, other = policy_of("greedy"), policy_of("greedy")
    decide = other._decide
    other._decide = lambda *inputs: (*decide(*inputs)[:2], decide(*inputs)[2] + np.float32(0.01))
    with pytest.raises(UserError, match="scores differ by up to 0.01"):
        agreement.compare(one, other, "float32")
    assert agreement.compare(one, policy_of("greedy"), "float32")["max_difference"] < 1e-6


def test_a_bin_at_the_edge_of_support_is_a_tie():
    """The second dim's first bin has .4 of the most probable one's share: rounding may leave it out."""
    settings = {"behaviour_weight": 1.0, "support": 0.4}
    one, other = policy_of("greedy", **settings), policy_of("greedy", **settings)
    scores = [
        np.asarray([[[0.1, 0.2, -np.inf], [first, 0.3, -np.inf]]], np.float32) for first in (0.4, -np.inf)
    ]
    for policy, own in zip((one, other), scores):
        decide = policy._decide

        def decided(*inputs, decide=decide, own=own):
            behaviour = decide(*inputs)[2]
            return own.argmax(-1).repeat(len(behaviour), 0), own.repeat(len(behaviour), 0), behaviour

        policy._decide = decided
    for found in (agreement.compare(one, other, "float32"), agreement.compare(other, one, "float32")):
        assert found["max_difference"] == 0.0 and found["ties"] == found["other_bins"] > 0


def request(session):
    return Request(session, {}, np.zeros(1, np.float32), np.zeros(4, np.float32))


def test_the_page_gets_them_and_null_where_there_are_none():
    dashboard = Dashboard()
    for name, settings in (("with", {}), ("without", {"behaviour_weight": 0.0})):
        asked = request(name)
        (decision,) = Sessions(policy_of("greedy", **settings), lambda sentence: sentence).act([asked])
        dashboard.record((0, name), asked, decision, 1.0)
    shown = {name: dashboard.state(lambda policy: {}, f"0.{name}")["shown"] for name in ("with", "without")}
    np.testing.assert_allclose(json.loads(json.dumps(shown["with"]["behaviour"])), EXPECTED, atol=1e-5)
    assert shown["without"]["behaviour"] is None


def test_the_report_draws_them_below_the_scores(monkeypatch):
    class Environment:
        def render_frame(self, size):
            return np.zeros((size, size, 3), np.uint8)

        def step(self, action):
            return {"images": {}, "state": np.zeros(1, np.float32)}, 0.0, False, True, {}

        def close(self):
            pass

    sessions = Sessions(policy_of("greedy"), lambda sentence: np.zeros(4, np.float32))
    start = {"images": {}, "state": np.zeros(1, np.float32)}
    (rollout,) = rollouts.run(
        sessions,
        1,
        [Job("a", 0, "b")],
        lambda task: Environment(),
        lambda *_: [start],
        trace=lambda job: True,
    )
    np.testing.assert_allclose(rollout.behaviour, [EXPECTED], rtol=1e-5)

    drawn = []
    monkeypatch.setattr(plots, "figure_uri", lambda figure: drawn.append(figure) or "")
    for behaviour in (None, rollout.behaviour):
        plots.scores_over_bins(rollout.scores, ("g", "x"), "Q", behaviour)
    maps = [[axis.images[0].get_array() for axis in figure.axes if axis.images] for figure in drawn]
    assert [len(one) for one in maps] == [2, 4]
    np.testing.assert_allclose(maps[1][3][:, 0], EXPECTED[1], rtol=1e-5)
    for figure in drawn:
        plots.plt.close(figure)
