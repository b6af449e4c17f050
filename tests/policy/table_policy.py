"""A policy without a network: it decides from a table of scores, whatever is seen."""

import numpy as np

from qt_jax.policy.runtime import Runtime
from qt_jax.specs import ActionSpec, ObservationSpec, PolicySpec
from tests.data.synthetic import unit_statistics

SCORES = ((0.25, 0.75), (0.5, 0.0), (0.125, 0.875))
"""Scores of a network's dims x, y, g over their two bins."""


class TablePolicy(Runtime):
    """slots: which of the network's dims the robot has, in its own order."""

    def __init__(self, slots=(0, 1, 2), score_name="Q", scores=SCORES):
        count = len(slots)
        names = tuple("xyg"[slot] for slot in slots)
        action = ActionSpec(names, (-1.0,) * count, (1.0,) * count, (2,) * count)
        seen = ObservationSpec(("front",), (16, 16), 4, "test")
        spec = PolicySpec(action, seen, slots, 3, 12, "test", score_name, 0.1)
        super().__init__(spec, unit_statistics(4), slots=2)
        self._scores = np.asarray(scores)[list(slots)]

    def _decide(self, slot, *inputs):
        scores = np.repeat(self._scores[None], len(slot), axis=0)
        return scores.argmax(-1), scores

    def forget_all(self):
        pass
