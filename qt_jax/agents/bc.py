"""Behaviour cloning as in RT-1 (Brohan et al. 2022): cross-entropy on the action tokens.

`config.data.episodes` says on which episodes.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses, support
from qt_jax.agents.checks import Require
from qt_jax.models.network import Network
from qt_jax.segment import Array, Segment

SCORE_NAME = "log-probability"
ADDITIVE = True
RETURN_CONDITIONED = False
targets = action_values = None


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "bc"  # of the algorithm; or "module:name" of yours
    # of the kernel by which an action taken counts for neighbouring bins too, as a share of a dim's range; 0:
    # for its own bin alone
    config.label_width = 0.0
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    require(0 <= config.agent.label_width < 1, "agent.label_width", "at least 0 and below 1")


def outputs(config: Any) -> int:
    """Returns 1: the logit of a bin."""
    return 1


def log_probabilities(bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes log-probabilities from the logits [..., N] of bins; -inf at bins that do not exist."""
    return jax.nn.log_softmax(jnp.where(bin_mask, logits, -jnp.inf))


def averaged(bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes the log of the networks' mean probability of each bin: logits [K, ..., N] -> [..., N]."""
    return jax.nn.logsumexp(log_probabilities(bin_mask, logits), axis=0) - math.log(len(logits))


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes the log-probabilities of the bins of one dim."""
    return averaged(bin_mask, logits[..., 0])


def candidates(config: Any) -> None:
    """Returns None: it has no values."""


def imitable(segment: Segment) -> Array:
    """Returns what may be imitated, bool [B, S, D]: present dims of trainable steps not relabelled."""
    return segment.trainable[..., None] & segment.action_mask & ~segment.relabelled[:, None, None]


def imitation_terms(config: Any, bin_mask: Array, log_probs: jax.Array, segment: Segment) -> jax.Array:
    """Computes the cross-entropy to the action taken, -log p(a^i | s, a^{1:i-1}), [B, S, D].

    With `config.agent.label_width` it is the mean of the bins around it, by `support.near` (default of this
    project).
    """
    width = config.agent.label_width
    if not width:
        return -losses.taken(log_probs, segment.tokens)
    near = support.near(segment.tokens, segment.bins[:, None], bin_mask, width)
    return -jnp.sum(near * jnp.where(bin_mask, log_probs, 0.0), -1) / near.sum(-1)


def loss(
    config: Any,
    network: Network,
    params: dict,
    targets: None,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes `imitation_terms`, summed over trainable steps and present dims, and their count.

    Episodes that hindsight relabelled are left out.
    """
    bin_mask = segment.bin_mask(network.interface.action.max_bins)[:, None]
    log_probs = log_probabilities(bin_mask, network.score(params, segment, dropout_key)[..., 0])
    mask = imitable(segment)
    return {
        "loss": losses.masked_sum(imitation_terms(config, bin_mask, log_probs, segment), mask),
        "token_accuracy": losses.masked_sum(jnp.argmax(log_probs, axis=-1) == segment.tokens, mask),
    }
