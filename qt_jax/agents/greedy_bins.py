"""What is reported of the greedy bins: those of the best score, given the data's earlier dims."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qt_jax import losses
from qt_jax.segment import Array, Segment


def sums(greedy: jax.Array, segment: Segment, mask: Array) -> dict[str, losses.Sum]:
    """Counts which greedy bins [B, S, D] are those taken, and which are the first or the last of their dim.

    Those of `mask` [B, S, D]; of two bins each is an edge, so such dims have no share in that.
    """
    bins = segment.bins[:, None]
    edge = (greedy == 0) | (greedy == bins - 1)
    return {
        "greedy_is_taken": losses.masked_sum(greedy == segment.tokens, mask),
        "greedy_at_edge": losses.masked_sum(edge, mask & (bins > 2)),
    }


def counts(tokens: Array, mask: Array, max_bins: int) -> jax.Array:
    """Counts how often `tokens` [B, S, D] have each bin of each dim, where `mask` [B, S, D] is, [D, N]."""
    return jnp.sum(jax.nn.one_hot(tokens, max_bins), axis=(0, 1), where=mask[..., None])
