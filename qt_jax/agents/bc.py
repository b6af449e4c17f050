"""Behaviour cloning as in RT-1 (Brohan et al.

2022): cross-entropy on the action tokens. `config.data.episodes` says on which episodes.
"""

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
RETURN_CONDITIONED = False
first_step_values = None


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "bc"  # of the algorithm; or "module:name" of yours
    return config


def outputs(config: Any) -> int:
    return 1


def log_probabilities(bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Logits [..., N] of which `bin_mask` exist -> log-probabilities, -inf at the others."""
    return jax.nn.log_softmax(jnp.where(bin_mask, logits, -jnp.inf))


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Log-probability of the bins of one dim."""
    return log_probabilities(bin_mask, logits[..., 0])


def imitable(segment: Segment) -> jax.Array:
    """Bool [B, S, D]: present dims of trainable steps, but for what hindsight relabelled."""
    return segment.trainable[..., None] & segment.action_mask & ~segment.relabelled[:, None, None]


def loss(
    config: Any,
    network: Network,
    params: dict,
    target_params: dict,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """-log p(a^i | s, a^{1:i-1}), summed over trainable steps and present dims, and their count.

    What hindsight relabelled is left out.
    """
    bin_mask = segment.bin_mask(network.action.max_bins)[:, None]
    log_probs = log_probabilities(bin_mask, network.score(params, segment, dropout_key)[..., 0])
    mask = imitable(segment)
    return {
        "loss": losses.masked_sum(-losses.taken(log_probs, segment.tokens), mask),
        "token_accuracy": losses.masked_sum(jnp.argmax(log_probs, axis=-1) == segment.tokens, mask),
    }
