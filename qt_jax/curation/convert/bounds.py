"""The bounds of a conversion's actions, and those of them that a few values make."""

from __future__ import annotations

import numpy as np

from qt_jax.data import outliers
from qt_jax.data.described import BINS
from qt_jax.data.outliers import Extremes
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.specs import ActionSpec


class Bounds:
    """Of the actions of all recordings that were added. names: of the dims."""

    def __init__(self, names: list[str]):
        self._names, self._extremes, self._samples = names, Extremes(len(names)), Samples(SAMPLES)

    def add(self, name: str, actions: np.ndarray, first: int = 0) -> None:
        """actions: [T, D]. first: what step of `name` the first is."""
        self._extremes.add(actions, name, first)
        self._samples.add(len(actions), {"action": actions})

    def spec(self) -> ActionSpec:
        """Bounds as the data has them; a dim that never moves gets a range around its value."""
        low, high = (
            np.asarray([self._extremes.of(dim, side)[0] for dim in range(len(self._names))])
            for side in (False, True)
        )
        still = low >= high
        low, high = np.where(still, low - 1.0, low), np.where(still, high + 1.0, high)
        return ActionSpec(tuple(self._names), low.tolist(), high.tolist(), (BINS,) * len(self._names))

    def warnings(self) -> list[str]:
        """A line for each bound that a few values make."""
        return outliers.lines(self.spec(), self._samples.rows("action"), self._extremes.of)
