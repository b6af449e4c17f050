"""What a critic's outputs say of Q, and its loss, for every agent that has critics.

A critic has one logit for each bin, or the cells of a distribution of returns (`config.agent.value_loss` is
"histogram"). The functions take the outputs of K critics, [..., A] with A = K * cells, one critic's after the
other's. They know no axis before these.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from qt_jax import losses
from qt_jax.agents.checks import Require
from qt_jax.errors import require_one_of
from qt_jax.segment import Array


def check(config: Any, require: Require) -> None:
    """Says what the settings of an agent with critics must be."""
    agent, least = config.agent, 2 * losses.HISTOGRAM_PADDING + 2
    require(agent.value_loss in losses.VALUE_LOSSES, "agent.value_loss", f"one of {losses.VALUE_LOSSES}")
    require(agent.value_cells >= least, "agent.value_cells", f"at least {least}")


def cells(config: Any) -> int:
    """Returns how many outputs a critic has for each bin: 1 but with "histogram"; 1 of agents without any."""
    return config.agent.value_cells if config.agent.get("value_loss") == "histogram" else 1


def q_values(config: Any, outputs: jax.Array) -> jax.Array:
    """Computes Q of each critic: outputs [..., A] -> [..., K].

    Raises:
        UserError: for an unknown `config.agent.value_loss`.

    """
    require_one_of("config.agent.value_loss", config.agent.value_loss, losses.VALUE_LOSSES)
    if config.agent.value_loss == "histogram":
        return losses.histogram_values(_distributions(config, outputs), *config.value_range)
    return losses.sigmoid_values(outputs, *config.value_range)


def taken(outputs: jax.Array, tokens: Array) -> jax.Array:
    """Returns each dim's outputs of the bin taken: [..., D, N, A], [..., D] -> [..., D, A]."""
    return jnp.take_along_axis(outputs, tokens[..., None, None], axis=-2)[..., 0, :]


def loss(config: Any, outputs: jax.Array, q: jax.Array, targets: jax.Array) -> jax.Array:
    """Computes each critic's value loss, [..., K].

    "squared" (Eq. 2 of Q-Transformer), "logistic" (as QT-Opt) or "histogram" (HL-Gauss).

    Args:
        config: the experiment's.
        outputs: [..., A], of the actions taken.
        q: [..., K], their `q_values`.
        targets: [...], of Q.

    """
    if config.agent.value_loss == "histogram":
        q_min, q_max = config.value_range
        of_one = functools.partial(losses.histogram_value_loss, q_min=q_min, q_max=q_max)
        return jnp.vectorize(of_one, signature="(n),()->()")(
            _distributions(config, outputs), targets[..., None]
        )
    if config.agent.value_loss == "logistic":
        return losses.logistic_value_loss(outputs, targets[..., None], *config.value_range)
    return losses.squared_value_loss(q, targets[..., None], *config.value_range)


def _distributions(config: Any, outputs: jax.Array) -> jax.Array:
    """[..., K * cells] -> [..., K, cells]."""
    return outputs.reshape(*outputs.shape[:-1], -1, cells(config))
