"""Q-Transformer (Chebotar et al. 2023): autoregressive Q-learning.

Its targets are at least the Monte-Carlo return; the conservative term is that of Eq. 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.agents.checks import Require
from qt_jax.errors import require_one_of
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Segment

USES_TARGET = True
SCORE_NAME = "Q"
ADDITIVE = False
RETURN_CONDITIONED = False


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "q_transformer"  # of the algorithm; or "module:name" of yours
    config.n_step = 1  # environment steps of a backup
    config.backup = "chain"  # or "skip": no per-dimension maximisation
    config.monte_carlo = True  # targets are at least the return that followed
    config.conservatism = "q_min"  # or "softmax" (CQL), "none"
    config.temperature = 1.0  # of "softmax", which lets go of a bin that stands out by several of it
    config.alpha = 1.0  # weight of the conservative term; it and the value loss are means over steps and dims
    config.value_loss = "squared"  # or "logistic" (cross-entropy), or "histogram" (HL-Gauss)
    config.value_cells = 51  # of "histogram": cells of a value distribution, 3 at each end beyond value_range
    config.critics = 1  # or 2: targets and actions take the smaller Q (TD3, Fujimoto et al. 2018)
    config.target_rate = 0.005  # Polyak (default of this project)
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    agent, least = config.agent, 2 * losses.HISTOGRAM_PADDING + 2
    histogram = agent.value_loss == "histogram"
    require(agent.backup in losses.BACKUPS, "agent.backup", f"one of {losses.BACKUPS}")
    require(agent.conservatism in losses.CONSERVATISM, "agent.conservatism", f"one of {losses.CONSERVATISM}")
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(agent.alpha >= 0, "agent.alpha", "at least 0")
    require(agent.value_loss in losses.VALUE_LOSSES, "agent.value_loss", f"one of {losses.VALUE_LOSSES}")
    require(agent.value_cells >= least, "agent.value_cells", f"at least {least}")
    require(
        agent.critics in ((1,) if histogram else (1, 2)),
        "agent.critics",
        "1 or 2, and 1 with value_loss='histogram'",
    )


def outputs(config: Any) -> int:
    """Returns how many cells of a histogram, or how many critics, a bin has an output for."""
    return config.agent.value_cells if config.agent.value_loss == "histogram" else config.agent.critics


def critics(config: Any, logits: jax.Array) -> jax.Array:
    """Computes Q of each of K critics: logits [..., A] -> [..., K].

    Raises:
        UserError: for an unknown `config.agent.value_loss`.

    """
    require_one_of("config.agent.value_loss", config.agent.value_loss, losses.VALUE_LOSSES)
    if config.agent.value_loss == "histogram":
        return losses.histogram_values(logits, *config.value_range)[..., None]
    return losses.sigmoid_values(logits, *config.value_range)


def q_values(config: Any, logits: jax.Array) -> jax.Array:
    """Computes the least Q of the critics: logits [..., A] -> [...]."""
    return critics(config, logits).min(-1)


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes Q of the bins of one dim."""
    return jnp.where(bin_mask, q_values(config, logits), -jnp.inf)


def first_step_values(config: Any, network: Network, params: dict, segment: Segment) -> jax.Array:
    """Computes Q of the action taken at each segment's first step, [B]; higher should mean success."""
    q = losses.taken(q_values(config, network.score(params, segment)), segment.tokens)
    return losses.of_whole_action(q[:, 0], segment.action_mask[:, 0])


def loss(
    config: Any,
    network: Network,
    params: dict,
    target_params: dict,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes Eq. 2, value loss + alpha * conservative term, summed over trainable steps and present dims.

    One online and one target pass over the segment. With two critics each term is the mean of theirs.
    """
    agent, (q_min, q_max) = config.agent, config.value_range
    bin_mask = segment.bin_mask(network.interface.action.max_bins)
    logits = network.score(params, segment, dropout_key)
    q = critics(config, logits)
    q_target = q_values(config, network.score(target_params, segment))
    targets, backups = td_targets(config, losses.masked_max(q_target, bin_mask[:, None]), segment)

    q_taken = jax.vmap(losses.taken, (-1, None), -1)(q, segment.tokens)
    taken_logits = jnp.take_along_axis(logits, segment.tokens[..., None, None], axis=-2)[..., 0, :]
    from_least = losses.squared_value_loss(q, q_min)
    if agent.value_loss == "histogram":

        def value_loss(x, y):
            return losses.histogram_value_loss(x, y, q_min, q_max)

        value_terms = jax.vmap(jax.vmap(jax.vmap(value_loss)))(taken_logits, targets)
    elif agent.value_loss == "logistic":
        value_terms = losses.logistic_value_loss(taken_logits, targets[..., None], q_min, q_max).mean(-1)
        from_least = losses.logistic_value_loss(logits, q_min, q_min, q_max)
    else:
        value_terms = losses.squared_value_loss(q_taken, targets[..., None]).mean(-1)
    penalties = losses.conservative_penalty(
        jnp.moveaxis(q, -1, 0),
        jnp.moveaxis(from_least, -1, 0),
        segment.tokens,
        bin_mask[:, None],
        agent.conservatism,
        agent.temperature,
    ).mean(0)

    mask = segment.trainable[..., None] & segment.action_mask
    q, q_taken = q.min(-1), q_taken.min(-1)
    others = mask[..., None] & bin_mask[:, None] & (jnp.arange(q.shape[-1]) != segment.tokens[..., None])
    present = jnp.where(bin_mask[:, None], q, q_min)
    best, greedy = present.max(-1), jnp.argmax(present, axis=-1)
    # `top_k` would gather a batch that is split over devices.
    second = jnp.where(jnp.arange(q.shape[-1]) == greedy[..., None], q_min, present).max(-1)
    bins = segment.bins[:, None]
    edge = (greedy == 0) | (greedy == bins - 1)
    return {
        "loss": losses.masked_sum(value_terms + agent.alpha * penalties, mask),
        "value_loss": losses.masked_sum(value_terms, mask),
        "conservative_loss": losses.masked_sum(penalties, mask),
        "td_error": losses.masked_sum(jnp.abs(q_taken - targets), mask),
        "q_taken": losses.masked_sum(q_taken, mask),
        "q_other": losses.masked_sum(q, others),
        "q_greedy": losses.masked_sum(best, mask),
        "action_gap": losses.masked_sum(best - second, mask),
        "greedy_is_taken": losses.masked_sum(greedy == segment.tokens, mask),
        "greedy_at_edge": losses.masked_sum(edge, mask & (bins > 2)),  # of two bins each is an edge
        "target": losses.masked_sum(targets, mask),
        "mc_return": losses.masked_sum(segment.mc_return[..., None], mask),
        "mc_clamp_share": losses.masked_sum(targets > backups, mask),
    }


def td_targets(config: Any, dim_values: jax.Array, segment: Segment) -> tuple[jax.Array, jax.Array]:
    """Computes the TD targets [B, S, D], and the same without the Monte-Carlo bound.

    `dim_values` [B, S, D] is the target network's value of each dim's bins.
    """
    agent, discount = config.agent, config.discount ** (segment.dt / config.dt_ref)

    def backup(*fields):
        return losses.autoregressive_td_targets(
            *fields, n=agent.n_step, backup=agent.backup, monte_carlo=agent.monte_carlo
        )

    return jax.vmap(backup)(
        dim_values,
        segment.reward,
        discount,
        segment.mc_return,
        segment.is_last,
        segment.is_terminal,
        segment.action_mask,
    )
