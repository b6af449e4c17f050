"""Precision, recall and F1 of "it will succeed" where a value reaches a threshold. 0/0 is None."""

from __future__ import annotations

from typing import Any

import numpy as np


def scores(predicted: np.ndarray, outcomes: np.ndarray) -> dict[str, Any]:
    """Computes counts, precision, recall and F1 of predictions; both arrays are bool [P]."""
    true_positives = int(np.sum(predicted & outcomes))
    false_positives = int(np.sum(predicted & ~outcomes))
    false_negatives = int(np.sum(~predicted & outcomes))

    def share(count: int, of: int) -> float | None:
        return count / of if of else None

    return {
        "true_positives": true_positives,
        "false_positives": false_positives,
        "false_negatives": false_negatives,
        "true_negatives": len(outcomes) - true_positives - false_positives - false_negatives,
        "precision": share(true_positives, true_positives + false_positives),
        "recall": share(true_positives, true_positives + false_negatives),
        "f1": share(2 * true_positives, 2 * true_positives + false_positives + false_negatives),
    }


def curve(values: np.ndarray, outcomes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the precision-recall curve; at least one outcome must be positive.

    Returns:
        Thresholds (each value that occurs, greatest first), and recall and precision at each.

    """
    thresholds = np.unique(values)[::-1]
    predicted = values >= thresholds[:, None]
    right = (predicted & outcomes).sum(-1)
    return thresholds, right / outcomes.sum(), right / predicted.sum(-1)


def best_threshold(values: np.ndarray, outcomes: np.ndarray) -> float | None:
    """Finds the threshold of the best F1, of equal ones the greatest, halfway to the next lower value.

    Returns:
        None where no outcome is positive.

    """
    if not outcomes.any():
        return None
    thresholds, recall, precision = curve(values, outcomes)
    found = np.argmax(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    return float(thresholds[found : found + 2].mean())


def average_precision(values: np.ndarray, outcomes: np.ndarray) -> float | None:
    """Computes the area below the precision-recall curve, in steps; None where no outcome is positive."""
    if not outcomes.any():
        return None
    _, recall, precision = curve(values, outcomes)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def intervals(
    predicted: np.ndarray, outcomes: np.ndarray, groups: np.ndarray, seed: int, resamples: int = 1000
) -> dict[str, Any]:
    """Computes 95% bootstrap intervals {"precision", "recall", "f1": [low, high] or None}.

    Args:
        predicted: bool [P].
        outcomes: bool [P].
        groups: int [P]; pairs of one group (instructions in one state) are drawn together, as they are not
            independent.
        seed: of the draws.
        resamples: how many draws.

    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn = [
        np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        for _ in range(resamples)
    ]
    rows = [scores(predicted[chosen], outcomes[chosen]) for chosen in drawn]

    found = {}
    for name in ("precision", "recall", "f1"):
        numbers = [row[name] for row in rows if row[name] is not None]
        found[name] = [float(x) for x in np.percentile(numbers, [2.5, 97.5])] if numbers else None
    return found
