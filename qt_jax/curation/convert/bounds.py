"""Finds the bounds of a conversion's actions, and warns where a few outliers set them."""

from __future__ import annotations

import numpy as np

from qt_jax.data import outliers
from qt_jax.data.outliers import Extremes
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.data.specs import BINS, bounded
from qt_jax.specs import ActionSpec


class Bounds:
    """The bounds of the actions of all recordings that were added, by the names of the dims."""

    def __init__(self, names: list[str]):
        self._names, self._extremes, self._samples = names, Extremes(len(names)), Samples(SAMPLES)

    def add(self, name: str, actions: np.ndarray, first: int = 0) -> None:
        """Adds the actions of a recording.

        Args:
            name: of the recording, for warnings.
            actions: [T, D].
            first: which step of the file's episode the first one is.
        """
        self._extremes.add(actions, name, first)
        self._samples.add(len(actions), {"action": actions})

    def spec(self) -> ActionSpec:
        """Returns the least and greatest value of each dim; a dim that never moves gets 1 on either side."""
        count = len(self._names)
        action = ActionSpec(tuple(self._names), (-1.0,) * count, (1.0,) * count, (BINS,) * count)
        return bounded(action, *self._extremes.bounds())

    def warnings(self) -> list[str]:
        """Returns a line for each bound that a few values set."""
        return outliers.lines(self.spec(), self._samples.rows("action"), self._extremes.of)
