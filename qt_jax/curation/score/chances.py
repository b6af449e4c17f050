"""How often episodes whose steps have such a Q succeed: a monotone curve through held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression


def success_probabilities(q: Sequence[np.ndarray], success: np.ndarray, fold: np.ndarray) -> list[np.ndarray]:
    """Computes the success probability of each step of each episode, [T] of each.

    The curve of a fold is an isotonic regression of success on Q through the other folds' episodes, so that
    no episode's own label counts. Each of them has the same weight, however long it is. (Default of this
    project.)

    Args:
        q: of each episode's steps, [T], by a network that did not see the episode; NaN is left out.
        success: bool [episodes].
        fold: of each episode, [episodes].

    Returns:
        NaN where q is, or where no other fold has an episode.

    """
    found = [np.full(len(steps), np.nan, np.float32) for steps in q]
    for own in np.unique(fold):
        others = [number for number in np.flatnonzero(fold != own).tolist() if np.isfinite(q[number]).any()]
        if not others:
            continue
        levels, chances = _curve([q[number] for number in others], success[others])
        for number in np.flatnonzero(fold == own).tolist():
            found[number][:] = np.interp(q[number], levels, chances)
    return found


def _curve(q: list[np.ndarray], success: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns different Q in ascending order, and the success probability at each, which does not fall."""
    kept = [steps[np.isfinite(steps)] for steps in q]
    each = np.repeat([1.0 / len(steps) for steps in kept], [len(steps) for steps in kept])
    succeeded = np.repeat(success.astype(float), [len(steps) for steps in kept])
    levels, place = np.unique(np.concatenate(kept), return_inverse=True)
    weight = np.bincount(place, each)
    mean = np.bincount(place, each * succeeded) / weight
    return levels, isotonic_regression(mean, weights=weight).x
