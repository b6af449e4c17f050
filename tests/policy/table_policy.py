"""A policy without a network: it decides from a table of scores, whatever is seen."""

import numpy as np

from qt_jax.policy.runtime import Runtime
from qt_jax.specs import ActionSpec, Interface, ObservationSpec, PolicySpec
from tests.data.synthetic import unit_statistics

SCORES = ((0.25, 0.75), (0.5, 0.0), (0.125, 0.875))
"""Scores of a network's dims x, y, g over their two bins."""


class TablePolicy(Runtime):
    """dims: which of the network's the robot has, in its own order; of a chunk each action is the same.

    It keeps what it is told of executed bins.
    """

    def __init__(
        self,
        dims=(0, 1, 2),
        score_name="Q",
        scores=SCORES,
        chunk=1,
        execute=1,
        candidates=0,
        limits=None,
    ):
        count = len(dims)
        names = tuple("xyg"[dim] for dim in dims)
        action = ActionSpec(names, (-1.0,) * count, (1.0,) * count, (2,) * count)
        own = Interface(action, ObservationSpec(("front",), (16, 16), 4, "test"), 12, chunk, execute)
        decided = tuple(len(SCORES) * k + dim for k in range(chunk) for dim in dims)
        spec = PolicySpec(own, decided, 3, "test", score_name, 0.1, candidates=candidates, limits=limits)
        self.corrected = []
        super().__init__(spec, unit_statistics(4), capacity=2)
        self._scores = np.tile(np.asarray(scores)[list(dims)], (chunk, 1))

    def _decide(self, episode, *inputs):
        scores = np.repeat(self._scores[None], len(episode), axis=0)
        return scores.argmax(-1), scores

    def correct(self, episode, tokens):
        self.corrected.append(tokens.tolist())

    def forget_all(self):
        pass
