"""The maths of Q-Transformer as pure functions of one segment or one step; callers vmap.

Letters: S records of a segment, D action dims, N bins. `(paper Eq. k)` is Chebotar et al., CoRL 2023, arXiv
2309.10150; what is marked "default of this project" is not published. Callers reduce: a global sum over
trainable steps and present dims, divided by their global count.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax

from qt_jax.errors import require_one_of
from qt_jax.segment import Array

Sum = tuple[jax.Array, jax.Array]
"""A sum over steps and dims, and how many were summed."""

BACKUPS = ("chain", "skip_decoded", "skip_first_dim")
CONSERVATISM = ("q_min", "closed_form", "softmax", "none")
VALUE_LOSSES = ("squared", "logistic", "histogram")
OF_NETWORKS = ("mean", "least")


def masked_max(q: jax.Array, bin_mask: Array) -> jax.Array:
    """Returns the maximum over the bins that exist: q [..., D, N], bin_mask [..., D, N] -> [..., D]."""
    return jnp.where(bin_mask, q, -jnp.inf).max(-1)


def state_value(dim_maxima: jax.Array, action_mask: Array) -> jax.Array:
    """Returns max over a^1 of Q(s, a^1), [S]: the maximum of the first dim that is present.

    Args:
        dim_maxima: [S, D], of each dim.
        action_mask: bool [S, D], dims that are present.

    """
    first = jnp.argmax(action_mask, axis=-1)
    return jnp.take_along_axis(dim_maxima, first[:, None], axis=-1)[:, 0]


def n_step_targets(
    r_t: Array,
    discount_t: Array,
    v_t: jax.Array,
    is_last_t: Array,
    is_terminal_t: Array,
    n: int,
) -> jax.Array:
    """Computes the TD targets of the last dim (paper Eq. 1, i = D, and its n-step form), [S].

    Sum and bootstrap stop at the end of the episode: with 0 where it terminated, with the value of o_T where
    it was truncated. Entries whose bootstrap lies beyond the segment, and those of last records, mean
    nothing: mask them.

    Args:
        r_t: [S], rewards.
        discount_t: [S], the discount of each step, gamma^(dt/dt_ref).
        v_t: [S], the value of each record's state under the target Q.
        is_last_t: bool [S], RLDS flag; the last record holds only o_T.
        is_terminal_t: bool [S], RLDS flag.
        n: steps of the backup, >= 1.

    """
    chex.assert_rank([r_t, discount_t, v_t, is_last_t, is_terminal_t], 1)

    def following(x):
        return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])

    ends, terminates, v_tp1 = following(is_last_t), following(is_terminal_t), following(v_t)
    value_at_end = jnp.where(terminates, 0.0, v_tp1)
    targets = v_t
    for _ in range(n):
        targets = jnp.add(r_t, discount_t * jnp.where(ends, value_at_end, following(targets)))
    return targets


def autoregressive_targets(
    dim_maxima: jax.Array, last_target: jax.Array, action_mask: Array, backup: str
) -> jax.Array:
    """Computes the TD target of each dim of each step, [S, D].

    "chain" (paper Eq. 1): dim i takes the target network's maximum over the next present dim, given the
    dataset's prefix; the last present dim takes `last_target`. "skip_decoded" (the paper's n-step variant)
    and "skip_first_dim" (of this project): every dim takes `last_target`.

    Args:
        dim_maxima: [S, D], max over bins of the target Q at each dim, teacher-forced on the dataset's action.
        last_target: [S], from `n_step_targets`.
        action_mask: bool [S, D], dims that are present.
        backup: see above.

    Raises:
        UserError: for another backup.

    """
    chex.assert_rank([dim_maxima, last_target, action_mask], [2, 1, 2])
    require_one_of("config.agent.backup", backup, BACKUPS)
    if backup != "chain":
        return jnp.broadcast_to(last_target[:, None], dim_maxima.shape)
    upcoming, targets = last_target, []
    for i in reversed(range(dim_maxima.shape[1])):
        targets.append(upcoming)
        upcoming = jnp.where(action_mask[:, i], dim_maxima[:, i], upcoming)
    return jnp.stack(targets[::-1], axis=1)


def autoregressive_td_targets(
    dim_values: jax.Array,
    bootstrap_t: jax.Array,
    r_t: Array,
    discount_t: Array,
    mc_return_t: Array,
    is_last_t: Array,
    is_terminal_t: Array,
    action_mask: Array,
    *,
    n: int,
    backup: str,
    monte_carlo: bool,
) -> tuple[jax.Array, jax.Array]:
    """Computes all targets of a segment from ONE pass of the target network, without gradient.

    Args:
        dim_values: [S, D], value of the target Q over each dim's bins, teacher-forced on the dataset's
            actions: their maximum (Q-learning), or their mean under a policy.
        bootstrap_t: [S], value of each record's state, from which a backup goes on: `state_value` of the
            `dim_values`; for "skip_decoded" the maximum over the last dim after a greedy decode.
        r_t: see `n_step_targets`.
        discount_t: see `n_step_targets`.
        mc_return_t: [S], the discounted return of the rest of the episode.
        is_last_t: see `n_step_targets`.
        is_terminal_t: see `n_step_targets`.
        action_mask: bool [S, D], dims that are present.
        n: see `n_step_targets`.
        backup: see `autoregressive_targets`.
        monte_carlo: target = max(backup, MC_t) in every dim of the step (paper fig. 2).

    Returns:
        The targets [S, D], and the same without the Monte-Carlo bound.

    """
    chex.assert_rank([dim_values, bootstrap_t], [2, 1])
    dim_values, bootstrap_t = jax.lax.stop_gradient((dim_values, bootstrap_t))
    last = n_step_targets(r_t, discount_t, bootstrap_t, is_last_t, is_terminal_t, n=n)
    backups = autoregressive_targets(dim_values, last, action_mask, backup)
    return (jnp.maximum(backups, mc_return_t[:, None]) if monte_carlo else backups), backups


def conservative_penalty(
    q: jax.Array,
    from_least: jax.Array,
    near: jax.Array,
    bin_mask: Array,
    variant: str,
    temperature: float,
) -> jax.Array:
    """Computes the term that keeps Q of actions unseen in the data low, [...].

    "q_min" (paper Eq. 2): 1/(N_max - 1) times the sum, over the bins that exist and were not taken, of the
    value loss to q_min, 1/2 (Q - q_min)^2. A dim with fewer bins still divides by N_max - 1. Bins near the
    one taken are pulled by 1 - `near` of it.

    "softmax" (CQL, Kumar et al. 2020): T logsumexp(Q/T) - Q(taken). It no longer lowers a bin that stands out
    by several T; at T = 1 no bin of returns in [0, 1] does (default of this project).

    "closed_form": 0, because `support.closed_form` lowers Q wherever it is used. "none": 0.

    Args:
        q: [..., N].
        from_least: [..., N], its value loss to q_min.
        near: [..., N], 1 at the bin taken; above 0 at others where values are pooled ("q_min" alone).
        bin_mask: bool [..., N], bins that exist.
        variant: one of `CONSERVATISM`.
        temperature: T.

    Raises:
        UserError: for another variant.

    """
    require_one_of("config.agent.conservatism", variant, CONSERVATISM)
    if variant in ("closed_form", "none"):
        return jnp.zeros(q.shape[:-1], q.dtype)
    if variant == "softmax":
        of_taken = jnp.sum(near * q, axis=-1)
        largest = jax.nn.logsumexp(jnp.where(bin_mask, q / temperature, -jnp.inf), axis=-1)
        return temperature * largest - of_taken
    return jnp.sum(jnp.where(bin_mask, (1.0 - near) * from_least, 0.0), axis=-1) / (q.shape[-1] - 1)


def sigmoid_values(logits: jax.Array, q_min: float, q_max: float) -> jax.Array:
    """Computes Q = q_min + (q_max - q_min) sigmoid(logit), elementwise."""
    return q_min + (q_max - q_min) * jax.nn.sigmoid(logits)


def taken(values: jax.Array, tokens: Array) -> jax.Array:
    """Returns each dim's value of the bin taken: [..., D, N], [..., D] -> [..., D]."""
    return jnp.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]


def of_whole_action(dim_values: jax.Array, action_mask: Array) -> jax.Array:
    """Returns the last present dim's value, that of the whole action: [..., D], bool [..., D] -> [...]."""
    last = jnp.max(jnp.where(action_mask, jnp.arange(action_mask.shape[-1]), 0), axis=-1)
    return jnp.take_along_axis(dim_values, last[..., None], axis=-1)[..., 0]


def of_networks(values: jax.Array, choice: str) -> jax.Array:
    """Returns the "mean" or the "least" of the networks' values: [K, ...] -> [...].

    Raises:
        UserError: for another choice.

    """
    require_one_of("config.agent.target_q or acting_q", choice, OF_NETWORKS)
    return values.mean(axis=0) if choice == "mean" else values.min(axis=0)


def expectile_loss(difference: jax.Array, expectile: float, q_min: float, q_max: float) -> jax.Array:
    """Computes |expectile - 1(u < 0)| u^2 (IQL, Kostrikov et al. 2021, Eq. 5) over the length of the range.

    Elementwise; for the division see `squared_value_loss`.
    """
    return jnp.abs(expectile - (difference < 0)) * jnp.square(difference) / (q_max - q_min)


def advantage_weight(advantage: jax.Array, temperature: float, most: float) -> jax.Array:
    """Computes min(exp(A / temperature), most), elementwise and without gradient.

    AWR, Peng et al. 2019; AWAC, Nair et al. 2020, Eq. 13.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(advantage / temperature), most))


HISTOGRAM_PADDING = 3
"""Cells beyond each end of the value range.

Without them a Gaussian at an end would be cut off and its mean would lie further inside, which a chain of
backups adds up.
"""


def histogram_edges(cells: int, q_min: float, q_max: float) -> jax.Array:
    """Returns the edges [cells + 1] of equal cells: `HISTOGRAM_PADDING` of them lie beyond each end."""
    width = (q_max - q_min) / (cells - 2 * HISTOGRAM_PADDING)
    return q_min + width * (jnp.arange(cells + 1) - HISTOGRAM_PADDING)


def histogram_values(logits: jax.Array, q_min: float, q_max: float) -> jax.Array:
    """Returns the mean of a categorical value distribution: logits [..., cells] -> Q [...]."""
    edges = histogram_edges(logits.shape[-1], q_min, q_max)
    return jax.nn.softmax(logits) @ ((edges[1:] + edges[:-1]) / 2)


def histogram_target(
    target: jax.Array, cells: int, q_min: float, q_max: float, sigma_ratio: float = 0.75
) -> jax.Array:
    """Computes the HL-Gauss target (Farebrother et al. 2024): a Gaussian as probabilities of cells, [cells].

    Args:
        target: its mean [], which is clipped to the value range: what lies outside is not attainable.
        cells: how many.
        q_min: the least attainable return.
        q_max: the greatest.
        sigma_ratio: its standard deviation, in cells.

    """
    edges = histogram_edges(cells, q_min, q_max)
    cdf = jax.scipy.stats.norm.cdf(
        edges, loc=jnp.clip(target, q_min, q_max), scale=sigma_ratio * (edges[1] - edges[0])
    )
    return jnp.diff(cdf) / (cdf[-1] - cdf[0])


def squared_value_loss(q: jax.Array, target: jax.Array | float, q_min: float, q_max: float) -> jax.Array:
    """Computes 1/2 (Q - target)^2 (paper Eq. 2) over the length of the value range, elementwise.

    That division is a default of this project, and does nothing to the paper's range of [0, 1]. Of a range of
    a hundred rewards the squares would be so large that a policy in the same network learns nothing.
    """
    return 0.5 * jnp.square(q - target) / (q_max - q_min)


def logistic_value_loss(logit: jax.Array, target: jax.Array | float, q_min: float, q_max: float) -> jax.Array:
    """Computes the cross-entropy of Q and the target as shares of the value range, elementwise.

    QT-Opt, Kalashnikov et al. 2018, section 4.2. Like the squared error it is least at the mean target, but
    an output near an end of the sigmoid still learns. `target` is clipped to the value range: beyond it the
    loss has no minimum, and the logits would grow without bound.
    """
    share = jnp.clip((target - q_min) / (q_max - q_min), 0.0, 1.0)
    return optax.sigmoid_binary_cross_entropy(logit, share)


def histogram_value_loss(taken_logits: jax.Array, target: jax.Array, q_min: float, q_max: float) -> jax.Array:
    """Computes the cross-entropy to `histogram_target` less its own entropy, [], which is 0 at a perfect fit.

    Args:
        taken_logits: [cells], of the bin taken.
        target: [].
        q_min: the least attainable return.
        q_max: the greatest.

    """
    chex.assert_rank([taken_logits, target], [1, 0])
    probabilities = histogram_target(target, taken_logits.shape[0], q_min, q_max)
    cross_entropy = -jnp.sum(probabilities * jax.nn.log_softmax(taken_logits))
    return cross_entropy - jnp.sum(jax.scipy.special.entr(probabilities))


def masked_sum(x: Array, mask: Array) -> Sum:
    """Returns the sum over the mask and its count.

    Callers divide once, after adding those of all devices and microbatches.
    """
    x, mask = jnp.broadcast_arrays(x, mask)
    return jnp.sum(jnp.where(mask, x, 0.0)), jnp.sum(mask)


def mean(total: Sum) -> jax.Array:
    """Divides a global sum by its global count, so that it is no mean of means; 0 for an empty mask."""
    return total[0] / jnp.maximum(total[1], 1)
