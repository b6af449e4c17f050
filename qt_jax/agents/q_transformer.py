"""Q-Transformer (Chebotar et al. 2023): autoregressive Q-learning with MC targets and the conservative term of Eq. 2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Segment

USES_TARGET = True
SCORE_NAME = "Q"
ADDITIVE = False


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "q_transformer"
    config.n_step = 1
    config.backup = "chain"  # or "skip": no per-dimension maximisation
    config.monte_carlo = True
    config.conservatism = "q_min"  # or "softmax" (CQL), "none"
    config.alpha = 1.0  # weight of the conservative term; both terms are means over trainable steps and present dims
    config.value_loss = "squared"  # or "histogram" (HL-Gauss; needs config.model.atoms > 1)
    config.target_rate = 0.005  # Polyak (default of this project)
    return config


def q_values(config: Any, logits: jax.Array) -> jax.Array:
    """[..., atoms] -> Q [...]."""
    to_q = losses.histogram_values if config.agent.value_loss == "histogram" else losses.sigmoid_values
    return to_q(logits, *config.value_range)


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Q of the bins of one dim."""
    return jnp.where(bin_mask, q_values(config, logits), -jnp.inf)


def first_step_values(config: Any, network: Network, params: dict, segment: Segment) -> jax.Array:
    """Q of the whole action taken at each segment's first step, [B] (its last dim that is present): its success should follow it."""
    q = _taken(q_values(config, network.score(params, segment)), segment.tokens)[:, 0]
    last = jnp.max(jnp.where(segment.action_mask[:, 0], jnp.arange(q.shape[1]), 0), axis=1)
    return jnp.take_along_axis(q, last[:, None], axis=1)[:, 0]


def loss(
    config: Any, network: Network, params: dict, target_params: dict, segment: Segment, dropout_key: jax.Array | None
) -> dict[str, losses.Sum]:
    """Eq. 2: value loss + alpha * conservative term, each a sum over trainable steps and present dims, and their count.

    One online and one target pass over the segment.
    """
    agent, (q_min, q_max) = config.agent, config.value_range
    bin_mask = segment.bin_mask(network.action.max_bins)
    logits = network.score(params, segment, dropout_key)
    q = q_values(config, logits)
    q_target = q_values(config, network.score(target_params, segment))
    discount = config.discount ** (segment.dt / config.dt_ref)

    def segment_targets(q_target, r, discount, mc, is_last, is_terminal, action_mask, bin_mask):
        return losses.q_transformer_targets(
            q_target, r, discount, mc, is_last, is_terminal, action_mask, bin_mask,
            n=agent.n_step, backup=agent.backup, monte_carlo=agent.monte_carlo,
        )  # fmt: skip

    targets, backups = jax.vmap(segment_targets)(
        q_target, segment.reward, discount, segment.mc_return, segment.is_last, segment.is_terminal, segment.action_mask, bin_mask
    )
    q_taken = _taken(q, segment.tokens)
    if agent.value_loss == "histogram":
        taken_logits = jnp.take_along_axis(logits, segment.tokens[..., None, None], axis=-2)[..., 0, :]
        value_loss = lambda x, y: losses.histogram_value_loss(x, y, q_min, q_max)
        value_terms = jax.vmap(jax.vmap(jax.vmap(value_loss)))(taken_logits, targets)
    else:
        value_terms = losses.squared_value_loss(q_taken, targets)
    penalty = lambda q, taken, mask: losses.conservative_penalty(q, taken, mask, q_min, agent.conservatism)
    penalties = jax.vmap(jax.vmap(jax.vmap(penalty), (0, 0, None)))(q, segment.tokens, bin_mask)

    mask = segment.trainable[..., None] & segment.action_mask
    others = mask[..., None] & bin_mask[:, None] & (jnp.arange(q.shape[-1]) != segment.tokens[..., None])
    return {
        "loss": losses.masked_sum(value_terms + agent.alpha * penalties, mask),
        "value_loss": losses.masked_sum(value_terms, mask),
        "conservative_loss": losses.masked_sum(penalties, mask),
        "td_error": losses.masked_sum(jnp.abs(q_taken - targets), mask),
        "q_taken": losses.masked_sum(q_taken, mask),
        "q_other": losses.masked_sum(q, others),
        "target": losses.masked_sum(targets, mask),
        "mc_clamp_share": losses.masked_sum(targets > backups, mask),
    }


def _taken(q: jax.Array, tokens: jax.Array) -> jax.Array:
    """[B, S, D, N], [B, S, D] -> [B, S, D]."""
    return jnp.take_along_axis(q, tokens[..., None], axis=-1)[..., 0]
