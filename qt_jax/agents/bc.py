"""Behaviour cloning as in RT-1 (Brohan et al. 2022): cross-entropy on the action tokens. `config.data.episodes` says on which episodes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Segment

USES_TARGET = False
SCORE_NAME = "log-probability"
ADDITIVE = True
first_step_values = None


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "bc"
    return config


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Log-probability of the bins of one dim."""
    return jax.nn.log_softmax(jnp.where(bin_mask, logits[..., 0], -jnp.inf))


def loss(
    config: Any, network: Network, params: dict, target_params: dict, segment: Segment, dropout_key: jax.Array | None
) -> dict[str, losses.Sum]:
    """-log p(a^i | s, a^{1:i-1}), summed over trainable steps and present dims, and their count. What hindsight relabelled is left out."""
    bin_mask = segment.bin_mask(network.action.max_bins)[:, None]
    logits = jnp.where(bin_mask, network.score(params, segment, dropout_key)[..., 0], -jnp.inf)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), segment.tokens[..., None], axis=-1)[..., 0]
    mask = segment.trainable[..., None] & segment.action_mask & ~segment.relabelled[:, None, None]
    accurate = jnp.argmax(logits, axis=-1) == segment.tokens
    return {"loss": losses.masked_sum(-log_probs, mask), "token_accuracy": losses.masked_sum(accurate, mask)}
