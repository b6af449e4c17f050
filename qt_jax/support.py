"""What a behaviour head says about bins: which ones the data supports, and how far to trust their values.

The head gives each bin of a dim the share of the data's actions that took it, given the state and the earlier
dims. A maximum over supported bins alone does not pick a bin that nobody ever took: discrete BCQ (Fujimoto et
al. 2019) in autoregressive form. Letters: N bins.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from qt_jax.segment import Array


def pooled(probabilities: jax.Array, bins: Array, width: float) -> jax.Array:
    """Adds to each bin the probabilities of its neighbours, weighed by exp(-distance / width).

    The distance is in units of the action, so a result does not depend on how fine the bins are (default of
    this project). A dim of two bins, such as a gripper, has no neighbours: its two ends are two decisions.

    Args:
        probabilities: [..., N]; 0 at bins that do not exist.
        bins: int [...], how many bins each dim has.
        width: of the Laplace kernel, as a share of the dim's range; 0: nothing is pooled.

    Returns:
        [..., N], of existing bins at least their own probability.

    """
    if not width:
        return probabilities
    decay = jnp.where(bins > 2, jnp.exp(-1.0 / (width * jnp.maximum(bins, 1))), 0.0)
    before = [(0, 0)] * (probabilities.ndim - 1)

    def from_one_side(shifted):
        """Sums over the bin itself and those on one side of it: over 1, 2, 4 .. of them, step by step."""
        total, weight, distance = probabilities, decay[..., None], 1
        while distance < probabilities.shape[-1]:
            total, weight, distance = total + weight * shifted(total, distance), weight * weight, 2 * distance
        return total

    below = from_one_side(lambda x, by: jnp.pad(x[..., :-by], [*before, (by, 0)]))
    above = from_one_side(lambda x, by: jnp.pad(x[..., by:], [*before, (0, by)]))
    return below + above - probabilities


def near(tokens: Array, bins: Array, bin_mask: Array, width: float) -> jax.Array:
    """Computes how near bins are to the one taken, [..., N]: 1 there, 0 at bins that do not exist.

    Args:
        tokens: int [...], the bins that were taken.
        bins: int [...], how many bins each dim has.
        bin_mask: bool [..., N], which bins exist.
        width: see `pooled`; 0: no other bin is near.

    """
    return jnp.where(bin_mask, pooled(jax.nn.one_hot(tokens, bin_mask.shape[-1]), bins, width), 0.0)


def supported(probabilities: jax.Array, bins: Array, bin_mask: Array, share: float, width: float) -> Array:
    """Tells which bins are at least `share` as probable as the most probable one.

    Args:
        probabilities: [..., N], of the behaviour head.
        bins: int [...], how many bins each dim has.
        bin_mask: bool [..., N], which bins exist.
        share: from 0 (every bin that exists) to 1 (the most probable bin alone).
        width: see `pooled`; both sides of the comparison are pooled.

    Returns:
        bool [..., N], with at least one bin of each dim.

    """
    if not share:
        return bin_mask
    density = jnp.where(bin_mask, pooled(jnp.where(bin_mask, probabilities, 0.0), bins, width), -1.0)
    return bin_mask & (density >= share * density.max(-1, keepdims=True))


def closed_form(
    values: jax.Array,
    probabilities: jax.Array,
    bins: Array,
    width: float,
    alpha: jax.Array | float,
    q_min: float,
) -> jax.Array:
    """Computes the Q in which training with the conservative term "q_min" would end, [..., N].

    With that term the loss of a bin that is taken with probability p, to a value y on average, is least at
    q_min + p (y - q_min) / (p + c (1 - p)), where c = alpha / (N - 1) (paper Eq. 2, solved). Here p is that
    of the behaviour head; p and p (y - q_min) are pooled over neighbours before (default of this project).

    Args:
        values: [..., N], y: what the value loss alone has learned.
        probabilities: [..., N], of the behaviour head; 0 at bins that do not exist.
        bins: int [...], how many bins each dim has.
        width: see `pooled`; 0: no bin knows its neighbours.
        alpha: above 0, the weight of the conservative term.
        q_min: the least attainable return.

    """
    taken = pooled(probabilities, bins, width)
    worth = pooled(probabilities * (values - q_min), bins, width)
    return q_min + worth / (taken + alpha / (values.shape[-1] - 1) * (1.0 - taken))
