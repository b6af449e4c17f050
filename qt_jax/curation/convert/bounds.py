"""Finds the bounds of a conversion's actions, and warns where a few outliers set them."""

from __future__ import annotations

import numpy as np

from qt_jax.data import outliers
from qt_jax.data.described import BINS
from qt_jax.data.outliers import Extremes
from qt_jax.data.samples import SAMPLES, Samples
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
        low, high = (
            np.asarray([self._extremes.of(dim, side)[0] for dim in range(len(self._names))])
            for side in (False, True)
        )
        still = low >= high
        low, high = np.where(still, low - 1.0, low), np.where(still, high + 1.0, high)
        return ActionSpec(tuple(self._names), low.tolist(), high.tolist(), (BINS,) * len(self._names))

    def warnings(self) -> list[str]:
        """Returns a line for each bound that a few values set."""
        return outliers.lines(self.spec(), self._samples.rows("action"), self._extremes.of)
