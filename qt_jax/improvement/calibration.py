"""What a policy's values say of new episodes, and what came of them: Q against the return that followed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from scipy.stats import mannwhitneyu

from qt_jax import agents
from qt_jax.data import validation_segments
from qt_jax.data.loader import Recipe
from qt_jax.training import checkpoints

BINS = 10
"""Of equal width over the value range."""


def measure(config: Any, recipe: Recipe, run: str, episodes: list[np.ndarray]) -> dict[str, Any] | None:
    """Compares Q of the actions of episodes with the returns that followed.

    Args:
        config: the experiment's, with its value range.
        recipe: of a mixture that has the episodes.
        run: the directory of the run whose networks judge; they should not have seen the episodes.
        episodes: of each dataset of the mixture the numbers in its index, one or more in all.

    Returns:
        None for an agent without values of actions. "q" and "bias" (Q less the return): {outcome: mean over
        steps} of the outcomes that occur; "auc": of the first step's Q against success, where both occur;
        "bins": [mean Q, mean return, steps] of the steps whose Q is in each of `BINS`, without empty ones.

    """
    agent = agents.get(config.agent.name)
    if agent.action_values is None:
        return None
    steps, firsts = _look(config, recipe.of_every_step(), run, episodes)
    return summary(steps, firsts, config.value_range)


def _look(config: Any, recipe: Recipe, run: str, episodes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (Q, return, success) of each step, float64 [steps, 3], and of each episode's first one."""
    agent = agents.get(config.agent.name)
    ensemble = agents.make_ensemble(config, recipe.mixture.interface)
    params, _, _ = checkpoints.load_params(run)
    compiled = jax.jit(
        lambda params, batch: agent.action_values(config, ensemble, params, ensemble.seen(params, batch))
    )
    draws = validation_segments.spread(recipe, episodes, limit=2**31)
    memory, size = config.data.memory_mib * 2**20, config.data.batch_size
    steps, firsts = [], []
    for batch in validation_segments.batches(recipe, draws, batch_size=size, memory=memory):
        q = np.asarray(compiled(params, batch), np.float64)
        success = np.broadcast_to(batch.success[:, None], q.shape)
        values = np.stack([q, batch.mc_return, success], axis=-1)
        steps.append(values[batch.trainable])
        firsts.append(values[batch.trainable & batch.is_first])
    return np.concatenate(steps), np.concatenate(firsts)


def summary(steps: np.ndarray, firsts: np.ndarray, value_range: tuple[float, float]) -> dict[str, Any]:
    """Computes what `measure` returns.

    Args:
        steps: (Q, return, success) of each step, [steps, 3].
        firsts: the same of each episode's first step.
        value_range: the least and the greatest value.

    """
    q, returns, success = steps.T
    found: dict[str, Any] = {"q": {}, "bias": {}, "auc": None, "bins": []}
    for outcome, members in (("success", success > 0), ("failure", success == 0)):
        if members.any():
            found["q"][outcome] = float(q[members].mean())
            found["bias"][outcome] = float((q - returns)[members].mean())
    first = [firsts[firsts[:, 2] == outcome, 0] for outcome in (1, 0)]
    if min(map(len, first)):
        found["auc"] = float(mannwhitneyu(*first).statistic / (len(first[0]) * len(first[1])))
    inner = np.linspace(*value_range, BINS + 1)[1:-1]
    place = np.searchsorted(inner, q, side="right")
    for number in np.unique(place):
        members = place == number
        found["bins"].append([float(q[members].mean()), float(returns[members].mean()), int(members.sum())])
    return found
