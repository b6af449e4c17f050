"""Bounds of actions that a few values make, as lines for a person."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qt_jax import discretization
from qt_jax.specs import ActionSpec
from qt_jax.statistics import outlying


class Extremes:
    """Where the least and the greatest value of each action dim stand."""

    def __init__(self, dims: int):
        self._values = np.full((2, dims), -np.inf, np.float32)  # of -action and action
        self._places = [[""] * dims, [""] * dims]

    def add(self, actions: np.ndarray, place: str) -> None:
        """actions: [T, D] of the episode at `place`."""
        for side, values in enumerate((-actions, actions)):
            for dim in np.flatnonzero(values.max(axis=0) > self._values[side]):
                step = int(values[:, dim].argmax())
                self._values[side, dim], self._places[side][dim] = values[step, dim], f"{place}, step {step}"

    def where(self, dim: int, greatest: bool) -> str:
        return self._places[int(greatest)][dim]


def lines(action: ActionSpec, samples: np.ndarray, where: Callable[[int, bool], str] | None = None) -> list[str]:
    """One for each bound that lies far beyond nearly all actions: they share a few bins then.

    Args:
        samples: [n, D] of the actions.
        where: gives the place of the least or (True) the greatest value of a dim.
    """
    told, samples = [], samples[np.isfinite(samples).all(axis=1)]
    for outlier in outlying(samples, np.asarray(action.low), np.asarray(action.high)):
        dim, (start, end) = outlier.dim, outlier.rest
        edges = np.zeros((2, action.dims))
        edges[:, dim] = start, end
        first, last = discretization.tokenize(action, edges)[:, dim]
        place = f" ({where(dim, outlier.bound > end)})" if where else ""
        told.append(
            f"action {action.names[dim]}: its bound {outlier.bound:g}{place} is an outlier: nearly all values lie "
            f"from {start:.3g} to {end:.3g}, in {last - first + 1} of {action.bins[dim]} bins; correct the bound or "
            "the data, or set config.data.action_bounds=quantiles"
        )
    return told
