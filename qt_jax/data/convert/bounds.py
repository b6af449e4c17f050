"""Least and greatest actions of a conversion, with the place where each stands."""

from __future__ import annotations

import numpy as np

from qt_jax import statistics
from qt_jax.specs import ActionSpec

SAMPLES = 100_000
"""Steps kept to tell an outlier by, at even distances."""


class Bounds:
    """Of the actions of all recordings that were added. names: of the dims."""

    def __init__(self, names: list[str]):
        self._names = names
        self._low, self._high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
        self._places: dict[tuple[int, bool], str] = {}
        self._samples: list[np.ndarray] = []
        self._seen, self._stride = 0, 1

    def add(self, name: str, actions: np.ndarray, first: int = 0) -> None:
        """actions: [T, D]. first: what step of `name` the first is."""
        for greatest, bound, steps in (
            (False, self._low, actions.argmin(axis=0)),
            (True, self._high, actions.argmax(axis=0)),
        ):
            for dim, step in enumerate(steps.tolist()):
                value = actions[step, dim]
                if value > bound[dim] if greatest else value < bound[dim]:
                    bound[dim] = value
                    self._places[dim, greatest] = f"{name}, step {first + step}"
        self._samples.append(actions[-self._seen % self._stride :: self._stride])
        self._seen += len(actions)
        if self._seen > SAMPLES * self._stride:
            self._samples, self._stride = [np.concatenate(self._samples)[::2]], 2 * self._stride

    def spec(self) -> ActionSpec:
        """Bounds as the data has them; a dim that never moves gets a range around its value."""
        still = self._low >= self._high
        low, high = np.where(still, self._low - 1.0, self._low), np.where(still, self._high + 1.0, self._high)
        bins = (2,) * len(self._names)  # the learner's choice
        return ActionSpec(tuple(self._names), tuple(low.tolist()), tuple(high.tolist()), bins)

    def warnings(self) -> list[str]:
        """A line for each bound that a few values make."""
        return [
            f"{self._places[one.dim, one.bound > one.rest[1]]}: action {self._names[one.dim]!r} is "
            f"{one.bound:g}, an outlier: nearly all others lie in [{one.rest[0]:.3g}, {one.rest[1]:.3g}] and "
            "would share a few bins; mend the episode, or train with config.data.action_bounds=quantiles"
            for one in statistics.outlying(np.concatenate(self._samples), self._low, self._high)
        ]
