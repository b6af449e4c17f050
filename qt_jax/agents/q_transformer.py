"""Q-Transformer (Chebotar et al. 2023): autoregressive Q-learning.

Its targets are at least the Monte-Carlo return; the conservative term is that of Eq. 2.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses, support
from qt_jax.agents import backup, bc, critic, greedy_bins
from qt_jax.agents.checks import Require
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import Network
from qt_jax.segment import Array, Segment

SCORE_NAME = "Q"
ADDITIVE = False
RETURN_CONDITIONED = False

BEHAVIOUR_OF = ("all", "successes")


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "q_transformer"  # of the algorithm; or "module:name" of yours
    config.n_step = 1  # decisions of a backup: environment steps, or chunks of config.model.chunk of them
    # or, both without maximisation over each dim: "skip_decoded", the paper's n-step variant, which goes on
    # from an action decoded greedily, and "skip_first_dim", which goes on from the first dim's maximum
    config.backup = "chain"
    config.monte_carlo = True  # targets are at least the return that followed
    # or "closed_form": not trained, but worked out with the behaviour head; "softmax" (CQL), "none"
    config.conservatism = "q_min"
    config.temperature = 1.0  # of "softmax", which lets go of a bin that stands out by several of it
    config.alpha = 1.0  # weight of the conservative term; it and the value loss are means over steps and dims
    config.value_loss = "squared"  # or "logistic" (cross-entropy), or "histogram" (HL-Gauss)
    config.value_cells = 51  # of "histogram": cells of a value distribution, 3 at each end beyond value_range
    # of the kernel by which what an action was worth counts for neighbouring bins too, as a share of a dim's
    # range; 0: for its own bin alone
    config.value_width = 0.0
    config.target_q = "mean"  # of config.model.networks, in targets; or "least" (TD3, Fujimoto et al. 2018)
    config.acting_q = "mean"  # of config.model.networks, where actions are chosen and in values; or "least"
    config.target_rate = 0.005  # Polyak (default of this project)
    config.behaviour_weight = 0.0  # of a second task, the cross-entropy to the action taken; 0: no such head
    config.behaviour_of = "all"  # episodes that the behaviour head imitates, or "successes"
    # maxima of targets and actions leave out bins whose behaviour is below this share of the most probable's
    config.support = 0.0
    # of the kernel by which support and "closed_form" pool neighbouring bins, as a share of a dim's range
    config.support_width = 0.0
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    agent = config.agent
    closed_form = agent.conservatism == "closed_form"
    critic.check(config, require)
    require(agent.backup in losses.BACKUPS, "agent.backup", f"one of {losses.BACKUPS}")
    require(agent.conservatism in losses.CONSERVATISM, "agent.conservatism", f"one of {losses.CONSERVATISM}")
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(
        0 < agent.alpha < math.inf or (agent.alpha == 0 and not closed_form),
        "agent.alpha",
        "at least 0, and above 0 with conservatism='closed_form'",
    )
    require(0 <= agent.behaviour_weight < math.inf, "agent.behaviour_weight", "at least 0, and finite")
    require(
        agent.behaviour_of in (BEHAVIOUR_OF if agent.behaviour_weight else BEHAVIOUR_OF[:1]),
        "agent.behaviour_of",
        f"one of {BEHAVIOUR_OF}, and 'all' without a behaviour head (config.agent.behaviour_weight)",
    )
    needed = "in [0, 1], and 0 without a behaviour head (config.agent.behaviour_weight)"
    require(
        0 <= agent.support <= 1 and (agent.behaviour_weight > 0 or not agent.support), "agent.support", needed
    )
    require(
        agent.behaviour_weight > 0 or not closed_form,
        "agent.conservatism",
        "another without a behaviour head (config.agent.behaviour_weight)",
    )
    require(
        agent.value_width == 0 or (agent.value_width > 0 and agent.conservatism in ("q_min", "none")),
        "agent.value_width",
        "0, or above it (a share of a dim's range) with conservatism='q_min' or 'none'",
    )
    pools = agent.support > 0 or closed_form
    require(
        agent.support_width == 0 or (agent.support_width > 0 and pools),
        "agent.support_width",
        "0, or above it (a share of a dim's range) with config.agent.support or conservatism='closed_form'",
    )


def outputs(config: Any) -> int:
    """Returns how many outputs a bin has: the value's, and the behaviour head's."""
    return critic.cells(config) + bool(config.agent.behaviour_weight)


def value_logits(config: Any, logits: jax.Array) -> jax.Array:
    """Returns the outputs of each bin that are about its value: all but the behaviour head's, the last."""
    return logits[..., :-1] if config.agent.behaviour_weight else logits


def maximised(config: Any, bin_mask: Array, logits: jax.Array) -> Array:
    """Returns the bins over which a maximum goes: those that exist and that the data supports.

    `bin_mask` bool [..., N] says which exist; `logits` [K, ..., N, A] have the same state and earlier dims.
    """
    agent = config.agent
    if not agent.support:
        return bin_mask
    behaviour, bins = probabilities(bin_mask, logits), bin_mask.sum(-1)
    return support.supported(behaviour, bins, bin_mask, agent.support, agent.support_width)


def probabilities(bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Returns the mean probabilities of behaviour, 0 at absent bins: logits [K, ..., N, A] -> [..., N]."""
    return jnp.where(bin_mask, jnp.exp(bc.averaged(bin_mask, logits[..., -1])), 0.0)


def learned_values(config: Any, logits: jax.Array) -> jax.Array:
    """Computes what a network learns by the value loss: logits [..., A] -> [...].

    Raises:
        UserError: for an unknown `config.agent.value_loss`.

    """
    return critic.q_values(config, value_logits(config, logits))[..., 0]


def q_values(config: Any, bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes Q of each of K networks: logits [K, ..., N, A] -> [K, ..., N].

    It is what they learned; with conservatism in closed form it is lowered here (`support.closed_form`).
    `bin_mask` [..., N] says which bins exist.
    """
    learned, agent = learned_values(config, logits), config.agent
    if agent.conservatism != "closed_form":
        return learned
    known = probabilities(bin_mask, logits), bin_mask.sum(-1), agent.support_width, agent.alpha
    q_min, _ = config.value_range
    return jax.vmap(lambda of_one: support.closed_form(of_one, *known, q_min))(learned)


def scores(config: Any, bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes Q of the bins of one dim; -inf at those over which the maximum does not go."""
    return _scores(config, bin_mask, logits, config.agent.acting_q)


def _scores(config: Any, bin_mask: Array, logits: jax.Array, choice: str) -> jax.Array:
    q = losses.of_networks(q_values(config, bin_mask, logits), choice)
    return jnp.where(maximised(config, bin_mask, logits), q, -jnp.inf)


def candidates(config: Any) -> Any:
    """Returns the behaviour head's log-probabilities, and Q of supported bins; None without that head."""
    if not config.agent.behaviour_weight:
        return None

    def of_dim(bin_mask, logits):
        return bc.averaged(bin_mask, logits[..., -1]), scores(config, bin_mask, logits)

    return of_dim


def action_values(config: Any, ensemble: Ensemble, params: dict, segment: Segment) -> jax.Array:
    """Computes Q of each step's whole action, [B, S]; higher should mean success."""
    bin_mask = segment.bin_mask(ensemble.interface.action.max_bins)[:, None]
    q = q_values(config, bin_mask, ensemble.score(params, segment))
    q = losses.taken(losses.of_networks(q, config.agent.acting_q), segment.tokens)
    return losses.of_whole_action(q, segment.action_mask)


def loss(
    config: Any,
    network: Network,
    params: dict,
    targets: Any,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes Eq. 2, value loss + alpha * conservative term, summed over trainable steps and present dims.

    With `config.agent.value_width` a bin's target is that of its neighbours too, by `support.pooled`. What
    that ends in is `support.closed_form` of the data's own probabilities (default of this project).
    `targets` are a pair: those of each dim [B, S, D], with and without the Monte-Carlo bound.
    """
    agent, (q_min, q_max) = config.agent, config.value_range
    bin_mask = segment.bin_mask(network.interface.action.max_bins)
    logits = network.score(params, segment, dropout_key)
    learned, q = learned_values(config, logits), q_values(config, bin_mask[:, None], logits[None])[0]
    bounded, backups = targets

    q_taken = losses.taken(q, segment.tokens)
    outputs = value_logits(config, logits)
    if agent.value_loss == "logistic":
        from_least = losses.logistic_value_loss(outputs, q_min, q_min, q_max)[..., 0]
    else:
        from_least = losses.squared_value_loss(learned, q_min, q_min, q_max)
    near = support.near(segment.tokens, segment.bins[:, None], bin_mask[:, None], agent.value_width)
    if agent.value_width:
        of_bins = critic.loss(config, outputs, learned[..., None], bounded[..., None])[..., 0]
        value_terms = jnp.sum(near * of_bins, axis=-1)
    else:
        taken = critic.taken(outputs, segment.tokens), losses.taken(learned, segment.tokens)[..., None]
        value_terms = critic.loss(config, *taken, bounded)[..., 0]
    penalties = losses.conservative_penalty(
        learned, from_least, near, bin_mask[:, None], agent.conservatism, agent.temperature
    )

    behaviour = _behaviour(config, logits, segment, bin_mask)
    mask = segment.trainable[..., None] & segment.action_mask
    others = mask[..., None] & bin_mask[:, None] & (jnp.arange(q.shape[-1]) != segment.tokens[..., None])
    present = jnp.where(maximised(config, bin_mask[:, None], logits[None]), q, q_min)
    best, greedy = present.max(-1), jnp.argmax(present, axis=-1)
    # `top_k` would gather a batch that is split over devices.
    second = jnp.where(jnp.arange(q.shape[-1]) == greedy[..., None], q_min, present).max(-1)
    return {
        "loss": losses.masked_sum(
            value_terms + agent.alpha * penalties + agent.behaviour_weight * behaviour.pop("terms"), mask
        ),
        "value_loss": losses.masked_sum(value_terms, mask),
        "conservative_loss": losses.masked_sum(penalties, mask),
        "td_error": losses.masked_sum(jnp.abs(q_taken - bounded), mask),
        "q_taken": losses.masked_sum(q_taken, mask),
        "q_other": losses.masked_sum(q, others),
        "q_greedy": losses.masked_sum(best, mask),
        "action_gap": losses.masked_sum(best - second, mask),
        **greedy_bins.sums(greedy, segment, mask),
        "target": losses.masked_sum(bounded, mask),
        "mc_return": losses.masked_sum(segment.mc_return[..., None], mask),
        "mc_clamp_share": losses.masked_sum(bounded > backups, mask),
        **{name: losses.masked_sum(values, where) for name, (values, where) in behaviour.items()},
    }


def _behaviour(config: Any, logits: jax.Array, segment: Segment, bin_mask: Array) -> dict[str, Any]:
    """Computes "terms", the behaviour head's cross-entropy [B, S, D]: 0 at what it does not imitate.

    Beside it {name: (values, mask)} of what is reported.
    """
    agent, bin_mask = config.agent, bin_mask[:, None]
    if not agent.behaviour_weight:
        return {"terms": 0.0}
    imitated = bc.imitable(segment)
    if agent.behaviour_of == "successes":
        imitated &= segment.success[:, None, None]
    log_probs = losses.taken(bc.log_probabilities(bin_mask, logits[..., -1]), segment.tokens)
    terms = jnp.where(imitated, -log_probs, 0.0)
    found = {"terms": terms, "behaviour_loss": (terms, imitated)}
    if agent.support:
        present = segment.trainable[..., None] & segment.action_mask
        found["supported_bins"] = (maximised(config, bin_mask, logits[None]).sum(-1), present)
    return found


def targets(
    config: Any, ensemble: Ensemble, target_params: dict, segment: Segment
) -> tuple[jax.Array, jax.Array]:
    """Computes `td_targets` whose values are maxima of the target Q, by one pass over the segment."""
    bin_mask, choice = segment.bin_mask(ensemble.interface.action.max_bins), config.agent.target_q
    if config.agent.backup != "skip_decoded":
        target = _scores(config, bin_mask[:, None], ensemble.score(target_params, segment), choice)
        return td_targets(config, target.max(-1), segment)

    steps = segment.tokens.shape[1]

    def step_scores(logits, dim):
        return _scores(config, jnp.repeat(bin_mask[:, dim], steps, axis=0), logits, choice)

    _, decoded = ensemble.decode_segment(target_params, segment, step_scores)
    maxima = decoded.max(-1)
    return td_targets(config, maxima, segment, losses.of_whole_action(maxima, segment.action_mask))


def td_targets(
    config: Any, dim_values: jax.Array, segment: Segment, state_values: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Computes the TD targets [B, S, D], and the same without the Monte-Carlo bound.

    `dim_values` [B, S, D] is the target network's value of each dim's bins. A backup goes on from
    `state_values` [B, S]; by default from the value of the first dim that is present.
    """
    agent, discount = config.agent, config.discount ** (segment.dt / config.dt_ref)
    if state_values is None:
        state_values = jax.vmap(losses.state_value)(dim_values, segment.action_mask)

    def targets(*fields):
        return losses.autoregressive_td_targets(
            *fields, n=backup.steps(config), backup=agent.backup, monte_carlo=agent.monte_carlo
        )

    return jax.vmap(targets)(
        dim_values,
        state_values,
        segment.reward,
        discount,
        segment.mc_return,
        segment.is_last,
        segment.is_terminal,
        segment.action_mask,
    )
