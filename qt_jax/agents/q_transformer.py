"""Q-Transformer (Chebotar et al. 2023): autoregressive Q-learning.

Its targets are at least the Monte-Carlo return; the conservative term is that of Eq. 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses, support
from qt_jax.agents import bc
from qt_jax.agents.checks import Require
from qt_jax.errors import require_one_of
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Array, Segment

USES_TARGET = True
SCORE_NAME = "Q"
ADDITIVE = False
RETURN_CONDITIONED = False

BEHAVIOUR_OF = ("all", "successes")


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "q_transformer"  # of the algorithm; or "module:name" of yours
    config.n_step = 1  # environment steps of a backup
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
    config.critics = 1  # or 2: targets and actions take the smaller Q (TD3, Fujimoto et al. 2018)
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
    agent, least = config.agent, 2 * losses.HISTOGRAM_PADDING + 2
    histogram, closed_form = agent.value_loss == "histogram", agent.conservatism == "closed_form"
    require(agent.backup in losses.BACKUPS, "agent.backup", f"one of {losses.BACKUPS}")
    require(agent.conservatism in losses.CONSERVATISM, "agent.conservatism", f"one of {losses.CONSERVATISM}")
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(
        agent.alpha > 0 or (agent.alpha == 0 and not closed_form),
        "agent.alpha",
        "at least 0, and above 0 with conservatism='closed_form'",
    )
    require(agent.value_loss in losses.VALUE_LOSSES, "agent.value_loss", f"one of {losses.VALUE_LOSSES}")
    require(agent.value_cells >= least, "agent.value_cells", f"at least {least}")
    require(
        agent.critics in ((1,) if histogram else (1, 2)),
        "agent.critics",
        "1 or 2, and 1 with value_loss='histogram'",
    )
    require(agent.behaviour_weight >= 0, "agent.behaviour_weight", "at least 0")
    require(agent.behaviour_of in BEHAVIOUR_OF, "agent.behaviour_of", f"one of {BEHAVIOUR_OF}")
    needed = "in [0, 1], and 0 without a behaviour head (config.agent.behaviour_weight)"
    require(
        0 <= agent.support <= 1 and (agent.behaviour_weight > 0 or not agent.support), "agent.support", needed
    )
    require(
        agent.behaviour_weight > 0 or not closed_form,
        "agent.conservatism",
        "another without a behaviour head (config.agent.behaviour_weight)",
    )
    pools = agent.support > 0 or closed_form
    require(
        agent.support_width == 0 or (agent.support_width > 0 and pools),
        "agent.support_width",
        "0, or above it (a share of a dim's range) with config.agent.support or conservatism='closed_form'",
    )


def outputs(config: Any) -> int:
    """Returns how many outputs a bin has: a histogram's cells or the critics, and the behaviour head's."""
    of_value = config.agent.value_cells if config.agent.value_loss == "histogram" else config.agent.critics
    return of_value + bool(config.agent.behaviour_weight)


def value_logits(config: Any, logits: jax.Array) -> jax.Array:
    """Returns the outputs of each bin that are about its value: all but the behaviour head's, the last."""
    return logits[..., :-1] if config.agent.behaviour_weight else logits


def maximised(config: Any, bin_mask: Array, logits: jax.Array) -> Array:
    """Returns the bins over which a maximum goes: those that exist and that the data supports.

    `bin_mask` bool [..., N] says which exist; `logits` [..., N, A] are given the same state and earlier dims.
    """
    agent = config.agent
    if not agent.support:
        return bin_mask
    behaviour, bins = probabilities(bin_mask, logits), bin_mask.sum(-1)
    return support.supported(behaviour, bins, bin_mask, agent.support, agent.support_width)


def probabilities(bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Returns the behaviour head's probabilities: logits [..., N, A] -> [..., N], 0 at absent bins."""
    return jnp.where(bin_mask, jnp.exp(bc.log_probabilities(bin_mask, logits[..., -1])), 0.0)


def learned_values(config: Any, logits: jax.Array) -> jax.Array:
    """Computes what each of K critics learns by the value loss: logits [..., A] -> [..., K].

    Raises:
        UserError: for an unknown `config.agent.value_loss`.

    """
    require_one_of("config.agent.value_loss", config.agent.value_loss, losses.VALUE_LOSSES)
    logits = value_logits(config, logits)
    if config.agent.value_loss == "histogram":
        return losses.histogram_values(logits, *config.value_range)[..., None]
    return losses.sigmoid_values(logits, *config.value_range)


def critics(config: Any, bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes Q of each of K critics: logits [..., N, A] -> [..., N, K].

    It is what they learned; with conservatism in closed form it is lowered here (`support.closed_form`).
    `bin_mask` [..., N] says which bins exist.
    """
    learned, agent = learned_values(config, logits), config.agent
    if agent.conservatism != "closed_form":
        return learned
    known = probabilities(bin_mask, logits), bin_mask.sum(-1), agent.support_width, agent.alpha
    q_min, _ = config.value_range
    return jax.vmap(lambda of_one: support.closed_form(of_one, *known, q_min), -1, -1)(learned)


def q_values(config: Any, bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes the least Q of the critics: logits [..., N, A] -> [..., N]; see `critics`."""
    return critics(config, bin_mask, logits).min(-1)


def scores(config: Any, bin_mask: Array, logits: jax.Array) -> jax.Array:
    """Computes Q of the bins of one dim; -inf at those over which the maximum does not go."""
    return jnp.where(maximised(config, bin_mask, logits), q_values(config, bin_mask, logits), -jnp.inf)


def candidates(config: Any) -> Any:
    """Returns the behaviour head's log-probabilities, and Q of supported bins; None without that head."""
    if not config.agent.behaviour_weight:
        return None

    def of_dim(bin_mask, logits):
        return bc.log_probabilities(bin_mask, logits[..., -1]), scores(config, bin_mask, logits)

    return of_dim


def first_step_values(config: Any, network: Network, params: dict, segment: Segment) -> jax.Array:
    """Computes Q of the action taken at each segment's first step, [B]; higher should mean success."""
    bin_mask = segment.bin_mask(network.interface.action.max_bins)[:, None]
    q = losses.taken(q_values(config, bin_mask, network.score(params, segment)), segment.tokens)
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
    learned, q = learned_values(config, logits), q_values(config, bin_mask[:, None], logits)
    targets, backups = maximising_targets(config, network, target_params, segment)

    q_taken = losses.taken(q, segment.tokens)
    taken_logits = jnp.take_along_axis(
        value_logits(config, logits), segment.tokens[..., None, None], axis=-2
    )[..., 0, :]
    from_least = losses.squared_value_loss(learned, q_min)
    if agent.value_loss == "histogram":

        def value_loss(x, y):
            return losses.histogram_value_loss(x, y, q_min, q_max)

        value_terms = jax.vmap(jax.vmap(jax.vmap(value_loss)))(taken_logits, targets)
    elif agent.value_loss == "logistic":
        value_terms = losses.logistic_value_loss(taken_logits, targets[..., None], q_min, q_max).mean(-1)
        from_least = losses.logistic_value_loss(value_logits(config, logits), q_min, q_min, q_max)
    else:
        taken_values = jax.vmap(losses.taken, (-1, None), -1)(learned, segment.tokens)
        value_terms = losses.squared_value_loss(taken_values, targets[..., None]).mean(-1)
    penalties = losses.conservative_penalty(
        jnp.moveaxis(learned, -1, 0),
        jnp.moveaxis(from_least, -1, 0),
        segment.tokens,
        bin_mask[:, None],
        agent.conservatism,
        agent.temperature,
    ).mean(0)

    behaviour = _behaviour(config, logits, segment, bin_mask)
    mask = segment.trainable[..., None] & segment.action_mask
    others = mask[..., None] & bin_mask[:, None] & (jnp.arange(q.shape[-1]) != segment.tokens[..., None])
    present = jnp.where(maximised(config, bin_mask[:, None], logits), q, q_min)
    best, greedy = present.max(-1), jnp.argmax(present, axis=-1)
    # `top_k` would gather a batch that is split over devices.
    second = jnp.where(jnp.arange(q.shape[-1]) == greedy[..., None], q_min, present).max(-1)
    bins = segment.bins[:, None]
    edge = (greedy == 0) | (greedy == bins - 1)
    return {
        "loss": losses.masked_sum(
            value_terms + agent.alpha * penalties + agent.behaviour_weight * behaviour.pop("terms"), mask
        ),
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
        found["supported_bins"] = (maximised(config, bin_mask, logits).sum(-1), present)
    return found


def maximising_targets(
    config: Any, network: Network, target_params: dict, segment: Segment
) -> tuple[jax.Array, jax.Array]:
    """Computes `td_targets` whose values are maxima of the target Q, by one pass over the segment."""
    bin_mask = segment.bin_mask(network.interface.action.max_bins)
    if config.agent.backup != "skip_decoded":
        target = scores(config, bin_mask[:, None], network.score(target_params, segment))
        return td_targets(config, target.max(-1), segment)

    steps = segment.tokens.shape[1]

    def step_scores(logits, dim):
        return scores(config, jnp.repeat(bin_mask[:, dim], steps, axis=0), logits)

    _, decoded = network.decode_segment(target_params, segment, step_scores)
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

    def backup(*fields):
        return losses.autoregressive_td_targets(
            *fields, n=agent.n_step, backup=agent.backup, monte_carlo=agent.monte_carlo
        )

    return jax.vmap(backup)(
        dim_values,
        state_values,
        segment.reward,
        discount,
        segment.mc_return,
        segment.is_last,
        segment.is_terminal,
        segment.action_mask,
    )
