"""Precision, recall and F1 of "it will succeed" where a value reaches a threshold. 0/0 is None."""

from __future__ import annotations

from typing import Any

import numpy as np


def scores(said: np.ndarray, outcomes: np.ndarray) -> dict[str, Any]:
    """Counts, precision, recall and F1 of what was `said` of the `outcomes`, both bool [P]."""
    right, false_alarms, missed = (
        int(np.sum(mask)) for mask in (said & outcomes, said & ~outcomes, ~said & outcomes)
    )

    def share(count, of):
        return count / of if of else None

    return {
        "true_positives": right,
        "false_positives": false_alarms,
        "false_negatives": missed,
        "true_negatives": len(outcomes) - right - false_alarms - missed,
        "precision": share(right, right + false_alarms),
        "recall": share(right, right + missed),
        "f1": share(2 * right, 2 * right + false_alarms + missed),
    }


def curve(values: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds (each value that occurs, greatest first), and recall and precision at each; recall needs a
    positive outcome.
    """
    thresholds = np.unique(values)[::-1]
    said = values >= thresholds[:, None]
    right = (said & outcomes).sum(-1)
    return thresholds, right / outcomes.sum(), right / said.sum(-1)


def best_threshold(values: np.ndarray, outcomes: np.ndarray) -> float | None:
    """That of the best F1 (of equal ones the greatest), halfway to the next lower value; None where no
    outcome is positive.
    """
    if not outcomes.any():
        return None
    thresholds, recall, precision = curve(values, outcomes)
    found = np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    return float(thresholds[found : found + 2].mean())


def average_precision(values: np.ndarray, outcomes: np.ndarray) -> float | None:
    """The area below the precision-recall curve as a sum of steps; None where no outcome is positive."""
    if not outcomes.any():
        return None
    _, recall, precision = curve(values, outcomes)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def intervals(
    said: np.ndarray, outcomes: np.ndarray, groups: np.ndarray, seed: int, resamples: int = 1000
) -> dict[str, Any]:
    """95% bootstrap intervals {"precision", "recall", "f1": [low, high] or None}.

    Args:
        groups: int [P]; pairs of one group (instructions asked of one state) are drawn together, as they are
            not independent.

    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn = [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        for _ in range(resamples)
    ]
    rows = [scores(said[chosen], outcomes[chosen]) for chosen in drawn]
    found = {}
    for name in ("precision", "recall", "f1"):
        numbers = [row[name] for row in rows if row[name] is not None]
        found[name] = [float(x) for x in np.percentile(numbers, [2.5, 97.5])] if numbers else None
    return found
