"""Finds the bounds of a conversion's actions, and warns where a few outliers set them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qt_jax.curation.convert.action_space import Movements, Space
from qt_jax.data import outliers
from qt_jax.data.outliers import Extremes
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.data.specs import BINS, bounded
from qt_jax.specs import ActionSpec


class Bounds:
    """The bounds of the actions of all recordings that were added, by the names of the dims."""

    def __init__(self, names: Sequence[str], movements: Movements | None = None):
        self._names, self._extremes, self._samples = names, Extremes(len(names)), Samples(SAMPLES)
        self._movements = movements

    def add(self, name: str, actions: np.ndarray, state: np.ndarray, first: int = 0) -> None:
        """Adds the actions of a recording.

        Args:
            name: of the recording, for warnings.
            actions: [T, D].
            state: [T or T + 1, S].
            first: which step of the file's episode the first one is.
        """
        self._extremes.add(actions, name, first)
        self._samples.add(len(actions), {"action": actions})
        if self._movements:
            self._movements.add(actions, state)

    def include(self, other: Bounds) -> None:
        """Adds the bounds of other recordings; their actions are no samples for `warnings`."""
        self._extremes.include(other._extremes)

    def spec(self) -> ActionSpec:
        """Returns the least and greatest value of each dim; a dim that never moves gets 1 on either side."""
        count = len(self._names)
        action = ActionSpec(tuple(self._names), (-1.0,) * count, (1.0,) * count, (BINS,) * count)
        return bounded(action, *self._extremes.bounds())

    def spaces(self) -> tuple[Space, ...]:
        """Returns what each dim is; nothing where no movements were given."""
        return self._movements.spaces() if self._movements else ()

    def warnings(self) -> list[str]:
        """Returns a line for each bound that a few values set."""
        return outliers.lines(self.spec(), self._samples.rows("action"), self._extremes.of)
