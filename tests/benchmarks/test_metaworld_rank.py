"""The actor that ranks a proposer's draws."""

import types

import numpy as np

from benchmarks.metaworld_rank import Ranked
from qt_jax.policy.requests import Request


def test_of_each_episodes_own_draws_the_best_is_done():
    """The draws of the episode with seed s are 3 s to 3 s + 2, and the ranker likes the second best."""
    closed = []

    def draw(requests):
        return [types.SimpleNamespace(actions=np.full((1, 2), request.seed)) for request in requests]

    def rank(requests):
        assert [request.candidates.shape for request in requests] == [(3, 1, 2)]
        return [types.SimpleNamespace(order=np.asarray([1, 2, 0]))]

    proposer = types.SimpleNamespace(act=draw, close=closed.append)
    ranker = types.SimpleNamespace(act_each=rank, close=closed.append)
    actor = Ranked(proposer, ranker, 3)
    asked = [Request(session, {}, np.zeros(1), "go", seed=seed) for session, seed in ((7, 0), (8, 5))]
    assert [decision.actions[0, 0] for decision in actor.act(asked)] == [1, 16]
    assert len(actor.seconds) == 1
    actor.close(7)
    assert closed == [(7, 0), (7, 1), (7, 2), 7]
