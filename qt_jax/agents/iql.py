"""Implicit Q-learning (Kostrikov et al. 2021) on the shared network.

Each bin has four outputs: two critics', the policy's, and the state value's. V(s) is the mean of the last one
over the bins of the first dim, which sees no action. Only the policy has dropout: with noisy values the
expectile would lift V above their mean, and the bootstrap would add that up.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.agents import backup, bc
from qt_jax.agents.checks import Require
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Array, Segment

USES_TARGET = True
SCORE_NAME = "log-probability"
ADDITIVE = True
RETURN_CONDITIONED = False

POLICY, VALUE = 2, 3
"""Places among the outputs; before them the critics."""


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "iql"  # of the algorithm; or "module:name" of yours
    config.n_step = 1
    config.expectile = 0.7  # of Q that V is
    config.temperature = 0.1  # of the advantages, whose returns lie in value_range
    config.max_weight = 100.0  # of one action
    config.target_rate = 0.005
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    agent = config.agent
    require(0 < agent.expectile < 1, "agent.expectile", "a number in (0, 1)")
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(agent.max_weight > 0, "agent.max_weight", "a positive number")


def outputs(config: Any) -> int:
    """Returns 4: of a bin the logits of two critics, the policy and the state value."""
    return 4


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes the policy's log-probabilities of the bins of one dim."""
    return bc.log_probabilities(bin_mask, logits[..., POLICY])


def candidates(config: Any) -> Any:
    """Returns the policy's log-probabilities and the lesser critic's Q, which the last dim alone means."""

    def of_dim(bin_mask, logits):
        q = losses.sigmoid_values(logits[..., :POLICY], *config.value_range).min(-1)
        return scores(config, bin_mask, logits), jnp.where(bin_mask, q, -jnp.inf)

    return of_dim


def whole_action_values(config: Any, logits: jax.Array, segment: Segment) -> jax.Array:
    """Computes Q(s, a) of both critics, [2, B, S]."""
    q = losses.sigmoid_values(jnp.moveaxis(logits[..., :POLICY], -1, 0), *config.value_range)

    def one(q):
        return losses.of_whole_action(losses.taken(q, segment.tokens), segment.action_mask)

    return jax.vmap(one)(q)


def state_values(config: Any, logits: jax.Array, segment: Segment, bin_mask: Array) -> jax.Array:
    """Computes V(s), [B, S], from the first dim that is present."""
    mean = jnp.mean(logits[..., VALUE], axis=-1, where=bin_mask[:, None])
    return jax.vmap(losses.state_value)(losses.sigmoid_values(mean, *config.value_range), segment.action_mask)


def first_step_values(config: Any, network: Network, params: dict, segment: Segment) -> jax.Array:
    """Computes Q of the action taken at each segment's first step, [B]."""
    return whole_action_values(config, network.score(params, segment), segment).min(0)[:, 0]


def loss(
    config: Any,
    network: Network,
    params: dict,
    target_params: dict,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes value, critic and policy loss, summed over trainable steps and present dims, and their count.

    The expectile loss of V (Eq. 5 of Kostrikov et al.), the squared TD error of the critics (Eq. 6) and the
    advantage-weighted cross-entropy of the policy (Eq. 7), which leaves out what hindsight relabelled.
    """
    agent = config.agent
    bin_mask = segment.bin_mask(network.interface.action.max_bins)
    logits = network.score(params, segment)
    dropped = logits if dropout_key is None else network.score(params, segment, dropout_key)
    q, v = whole_action_values(config, logits, segment), state_values(config, logits, segment, bin_mask)
    target_logits = network.score(target_params, segment)
    q_target = jax.lax.stop_gradient(whole_action_values(config, target_logits, segment).min(0))
    discount = config.discount ** (segment.dt / config.dt_ref)

    n_step_targets = functools.partial(losses.n_step_targets, n=backup.steps(config))
    ends = segment.is_last, segment.is_terminal
    targets = jax.vmap(n_step_targets)(segment.reward, discount, jax.lax.stop_gradient(v), *ends)
    value_terms = losses.expectile_loss(q_target - v, agent.expectile)
    critic_terms = losses.squared_value_loss(q, targets).mean(0)
    weight = losses.advantage_weight(q_target - v, agent.temperature, agent.max_weight)
    log_probs = losses.taken(bc.log_probabilities(bin_mask[:, None], dropped[..., POLICY]), segment.tokens)

    policy_terms = jnp.where(bc.imitable(segment), -weight[..., None] * log_probs, 0.0)

    mask = segment.trainable[..., None] & segment.action_mask
    return {
        "loss": losses.masked_sum(policy_terms + (value_terms + critic_terms)[..., None], mask),
        "value_loss": losses.masked_sum(value_terms[..., None], mask),
        "critic_loss": losses.masked_sum(critic_terms[..., None], mask),
        "policy_loss": losses.masked_sum(policy_terms, mask),
        "advantage": losses.masked_sum((q_target - v)[..., None], mask),
        "weight": losses.masked_sum(weight[..., None], mask),
        "q_taken": losses.masked_sum(q.min(0)[..., None], mask),
        "mc_return": losses.masked_sum(segment.mc_return[..., None], mask),
    }
