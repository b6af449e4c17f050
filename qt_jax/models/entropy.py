"""How spread attention is, and a loss that keeps it so: the entropy control of TQL (Dong et al. 2026).

Transformers that learn values attend to ever fewer tokens as they grow (arXiv 2602.01439). docs/method.md
says what of the control is published and what is ours.

There are two kinds of tokens: action tokens, whose outputs are the values, in all L layers; and frames'
tokens in all but the last, which gives keys and values alone. So E = 2 L - 1 entropies are followed, and each
has a weight of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

INITIAL_WEIGHT = 0.01
"""Default of this project, for values in [0, 1]."""
SPEED = 10.0
"""A weight is exp(SPEED * parameter), 1 at most: it must come to fit losses of any size within thousands of
steps, and Adam moves a parameter by the learning rate in each."""


def share(logits: jax.Array, seen: jax.Array) -> jax.Array:
    """Computes the entropy of softmax(logits) as a share of the greatest, that of equal weights: [...].

    1 where a token sees one key alone.

    Args:
        logits: [..., K] of attention, masked.
        seen: bool, broadcast to [..., K]: the keys that are not masked.

    """
    seen = jnp.broadcast_to(seen, logits.shape)
    log_weights = jax.nn.log_softmax(logits)
    nats = -jnp.sum(jnp.where(seen, jnp.exp(log_weights) * log_weights, 0.0), axis=-1)
    keys = seen.sum(axis=-1)
    return jnp.where(keys > 1, nats / jnp.log(jnp.maximum(keys, 2)), 1.0)


def names(layers: int) -> list[str]:
    """Returns their names: of action tokens "0" .. "L-1", then of frames "frames_0" .. "frames_L-2"."""
    return [f"{layer}" for layer in range(layers)] + [f"frames_{layer}" for layer in range(layers - 1)]


def initial(layers: int) -> jax.Array:
    """Returns the parameters of the weights before training, [E]."""
    return jnp.full(len(names(layers)), jnp.log(INITIAL_WEIGHT) / SPEED)


def control(
    parameters: jax.Array, total: jax.Array, count: jax.Array, target: float
) -> tuple[jax.Array, jax.Array]:
    """Computes the control's loss as a sum, and the weights [E].

    Of an entropy H with parameter p and weight w it is `-stop(w) H + p (stop(H) - target)`: while H is below
    the target, w grows and attention spreads; above it, w falls towards 0. The loss is the mean over all.

    Args:
        parameters: [E], learned.
        total: [E], sums of entropies, each a share of the greatest.
        count: [], of how many.
        target: the least share.

    """
    weights = jnp.minimum(jnp.exp(SPEED * parameters), 1.0)
    excess = jax.lax.stop_gradient(total - target * count)
    excess = jnp.where((weights == 1.0) & (excess < 0), 0.0, excess)  # a weight of 1 grows no more
    return jnp.mean(parameters * excess - jax.lax.stop_gradient(weights) * total), weights
