"""Implicit Q-learning (Kostrikov et al. 2021) on the shared network.

Each bin has the outputs of two critics, then the policy's, then the state value's. V(s) is the mean of the
last over the bins of the first dim, which sees no action. Only the policy has dropout: with noisy values the
expectile would lift V above their mean, and the bootstrap would add that up.

`config.agent.value_loss` is that of the critics. V is an expectile of their Q whatever it is, and of a
distribution Q is the mean.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.agents import backup, bc, critic
from qt_jax.agents.checks import Require
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import Network
from qt_jax.segment import Array, Segment

SCORE_NAME = "log-probability"
ADDITIVE = True
RETURN_CONDITIONED = False

CRITICS = 2
POLICY, VALUE = -2, -1
"""Places among the outputs; before them the critics'."""


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "iql"  # of the algorithm; or "module:name" of yours
    config.n_step = 1
    config.value_loss = "squared"
    config.value_cells = 51
    config.expectile = 0.7  # of Q that V is
    config.temperature = 0.1  # of the advantages, whose returns lie in value_range
    config.max_weight = 100.0  # of one action
    config.policy_weight = 1.0  # of the policy's loss beside the values', with which it shares the network
    config.label_width = 0.0  # of a kernel: the action taken counts for neighbouring bins too, as in bc.py
    config.target_q = "mean"
    config.acting_q = "mean"
    config.target_rate = 0.005
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    agent = config.agent
    bc.check(config, require)
    critic.check(config, require)
    require(0 < agent.expectile < 1, "agent.expectile", "a number in (0, 1)")
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(agent.max_weight > 0, "agent.max_weight", "a positive number")
    require(0 < agent.policy_weight < math.inf, "agent.policy_weight", "a positive number, and finite")


def outputs(config: Any) -> int:
    """Returns how many outputs a bin has: those of two critics, the policy's and the state value's."""
    return CRITICS * critic.cells(config) + 2


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes the policy's log-probabilities of the bins of one dim."""
    return bc.averaged(bin_mask, logits[..., POLICY])


def candidates(config: Any) -> Any:
    """Returns the policy's log-probabilities and the lesser critic's Q, which the last dim alone means."""

    def of_dim(bin_mask, logits):
        q = critic.q_values(config, logits[..., :POLICY]).min(-1)
        q = losses.of_networks(q, config.agent.acting_q)
        return scores(config, bin_mask, logits), jnp.where(bin_mask, q, -jnp.inf)

    return of_dim


def whole_action(config: Any, logits: jax.Array, segment: Segment) -> tuple[jax.Array, jax.Array]:
    """Returns the critics' outputs of the whole action taken, [B, S, A], and its Q by each, [B, S, 2]."""
    taken = critic.taken(logits[..., :POLICY], segment.tokens)
    outputs = jax.vmap(losses.of_whole_action, (-1, None), -1)(taken, segment.action_mask)
    return outputs, critic.q_values(config, outputs)


def state_values(config: Any, logits: jax.Array, segment: Segment, bin_mask: Array) -> jax.Array:
    """Computes V(s), [B, S], from the first dim that is present."""
    mean = jnp.mean(logits[..., VALUE], axis=-1, where=bin_mask[:, None])
    return jax.vmap(losses.state_value)(losses.sigmoid_values(mean, *config.value_range), segment.action_mask)


def _lesser(config: Any, ensemble: Ensemble, params: dict, segment: Segment, choice: str) -> jax.Array:
    """Computes the lesser critic's Q(s, a), mean or least of the networks, [B, S]."""
    _, q = jax.vmap(lambda logits: whole_action(config, logits, segment))(ensemble.score(params, segment))
    return losses.of_networks(q.min(-1), choice)


def action_values(config: Any, ensemble: Ensemble, params: dict, segment: Segment) -> jax.Array:
    """Computes the lesser Q of each step's whole action, [B, S]."""
    return _lesser(config, ensemble, params, segment, config.agent.acting_q)


def targets(config: Any, ensemble: Ensemble, target_params: dict, segment: Segment) -> jax.Array:
    """Computes the target networks' Q(s, a), [B, S], without gradient."""
    return jax.lax.stop_gradient(_lesser(config, ensemble, target_params, segment, config.agent.target_q))


def loss(
    config: Any,
    network: Network,
    params: dict,
    targets: jax.Array,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes value, critic and policy loss, summed over trainable steps and present dims, and their count.

    The expectile loss of V (Eq. 5 of Kostrikov et al.), the value loss of the critics (Eq. 6) and the
    advantage-weighted cross-entropy of the policy (Eq. 7), which leaves out what hindsight relabelled.
    """
    agent = config.agent
    bin_mask = segment.bin_mask(network.interface.action.max_bins)
    logits = network.score(params, segment)
    dropped = logits if dropout_key is None else network.score(params, segment, dropout_key)
    v = state_values(config, logits, segment, bin_mask)
    outputs, q = whole_action(config, logits, segment)
    discount = config.discount ** (segment.dt / config.dt_ref)

    n_step_targets = functools.partial(losses.n_step_targets, n=backup.steps(config))
    ends = segment.is_last, segment.is_terminal
    backups = jax.vmap(n_step_targets)(segment.reward, discount, jax.lax.stop_gradient(v), *ends)
    value_terms = losses.expectile_loss(targets - v, agent.expectile, *config.value_range)
    critic_terms = critic.loss(config, outputs, q, backups).mean(-1)
    weight = losses.advantage_weight(targets - v, agent.temperature, agent.max_weight)
    log_probs = bc.log_probabilities(bin_mask[:, None], dropped[..., POLICY])
    imitation = bc.imitation_terms(config, bin_mask[:, None], log_probs, segment)
    policy_terms = jnp.where(bc.imitable(segment), weight[..., None] * imitation, 0.0)

    mask = segment.trainable[..., None] & segment.action_mask
    return {
        "loss": losses.masked_sum(
            agent.policy_weight * policy_terms + (value_terms + critic_terms)[..., None], mask
        ),
        "value_loss": losses.masked_sum(value_terms[..., None], mask),
        "critic_loss": losses.masked_sum(critic_terms[..., None], mask),
        "policy_loss": losses.masked_sum(policy_terms, mask),
        "advantage": losses.masked_sum((targets - v)[..., None], mask),
        "weight": losses.masked_sum(weight[..., None], mask),
        "q_taken": losses.masked_sum(q.min(-1)[..., None], mask),
        "mc_return": losses.masked_sum(segment.mc_return[..., None], mask),
    }
