"""Warnings of action bounds, and of standard deviations of states, that a few outliers make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qt_jax import discretization
from qt_jax.specs import ActionSpec
from qt_jax.statistics import Outlier, Statistics, outlying


class Extremes:
    """The least and the greatest value of each action dim, each with its place."""

    def __init__(self, dims: int):
        self._values = np.full((2, dims), -np.inf, np.float32)  # of -action and action
        self._places = [[""] * dims, [""] * dims]

    def add(self, actions: np.ndarray, place: str, first: int = 0) -> None:
        """Adds actions [T, D] of the episode at `place`, from its step `first` on."""
        for side, values in enumerate((-actions, actions)):
            for dim in np.flatnonzero(values.max(axis=0) > self._values[side]):
                step = int(values[:, dim].argmax())
                self._values[side, dim] = values[step, dim]
                self._places[side][dim] = f"{place}, step {first + step}"

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the least and the greatest values, float64 [dims] each."""
        low, high = np.asarray(self._values, np.float64) * [[-1], [1]]
        return low, high

    def include(self, other: Extremes) -> None:
        """Adds those of other episodes."""
        for side in (0, 1):
            for dim in np.flatnonzero(other._values[side] > self._values[side]):
                self._values[side, dim] = other._values[side, dim]
                self._places[side][dim] = other._places[side][dim]

    def of(self, dim: int, greatest: bool) -> tuple[float, str]:
        """Returns the least or the greatest value of a dim, and its place."""
        side = int(greatest)
        return float(self._values[side, dim]) * (1 if greatest else -1), self._places[side][dim]


def lines(
    action: ActionSpec, samples: np.ndarray, extreme: Callable[[int, bool], tuple[float, str]]
) -> list[str]:
    """Returns a line for each bound that lies far beyond nearly all actions, which then share a few bins.

    Args:
        action: the bounds and bins.
        samples: actions [n, D]; those that are not finite are left out.
        extreme: gives the least or (True) the greatest value of a dim, and its place if that is known.

    """
    found, samples = [], samples[np.isfinite(samples).all(axis=1)]
    for outlier in outlying(samples, np.asarray(action.low), np.asarray(action.high)):
        dim, (start, end) = outlier.dim, outlier.rest
        edges = np.zeros((2, action.dims))
        edges[:, dim] = start, end
        first, last = discretization.tokenize(action, edges)[:, dim]
        what = _what(action.names[dim], outlier, *extreme(dim, outlier.bound > end))
        found.append(
            f"{what}: nearly all values lie in [{start:.3g}, {end:.3g}], {last - first + 1} of "
            f"{action.bins[dim]} bins; mend the data or the bound, or set config.data.action_bounds=quantiles"
        )
    return found


def of_states(samples: np.ndarray, statistics: Statistics) -> list[str]:
    """Returns a line for each state entry whose outlier makes its standard deviation too wide.

    Too wide is a deviation greater than the range of nearly all values: normalised by it, they are nearly
    equal.

    Args:
        samples: states [n, S].
        statistics: of all states.

    """
    found = outlying(samples, np.asarray(statistics.low), np.asarray(statistics.high))
    return [
        f"state entry {one.dim} has an outlier, {one.bound:g}: its standard deviation is "
        f"{statistics.std[one.dim]:.3g}, nearly all values lie in [{one.rest[0]:.3g}, {one.rest[1]:.3g}]; "
        "mend the data or leave the episode out"
        for one in found
        if statistics.std[one.dim] > one.rest[1] - one.rest[0]
    ]


def _what(name: str, outlier: Outlier, value: float, place: str) -> str:
    """Names the value that made the bound, its place first; or the bound, if no value is near it."""
    start, end = outlier.rest
    if abs(value - outlier.bound) > min(abs(value - start), abs(value - end)):
        return f"action {name!r} has the bound {outlier.bound:g}, far from all values"
    if not place:
        return f"action {name!r} has an outlier, {value:g} (`validate` names its step)"
    return f"{place}: action {name!r} has an outlier, {value:g}"
