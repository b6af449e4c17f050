"""Success rates with Wilson intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

if TYPE_CHECKING:  # it imports a simulator's library, and episodes of a robot are counted without
    from qt_jax.evaluation.rollouts import Rollout


def success_rate(outcomes: Sequence[bool]) -> dict[str, Any]:
    """Computes the share of successes with its 95% Wilson interval."""
    successes = sum(outcomes)
    interval = binomtest(successes, len(outcomes)).proportion_ci(method="wilson")
    return {
        "success": successes / len(outcomes),
        "low": interval.low,
        "high": interval.high,
        "episodes": len(outcomes),
    }


def summarize(rollouts: list[Rollout]) -> dict[str, Any]:
    """Computes success with its interval and the mean episode length in decisions, by task and overall."""

    def row(chosen: list[Rollout]) -> dict[str, Any]:
        mean_length = sum(r.length for r in chosen) / len(chosen)
        return success_rate([r.success for r in chosen]) | {"mean_length": mean_length}

    tasks = sorted({r.job.task for r in rollouts})
    return {
        "tasks": {task: row([r for r in rollouts if r.job.task == task]) for task in tasks},
        "overall": row(rollouts),
    }
