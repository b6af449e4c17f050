"""Advantage-weighted actor-critic (AWAC, Nair et al. 2020) on the autoregressive Q.

With `positive_filter` the actor imitates successful episodes alone, as AW-Opt's does (Lu et al. 2021).
Each bin has two outputs: the critic's and the policy's. Only the actor has dropout.

The mean of Q under the policy, a sample in the papers, is exact here: dim by dim, over its bins.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.agents import bc, q_transformer
from qt_jax.agents.checks import Require
from qt_jax.models.q_transformer import Network
from qt_jax.segment import Segment

USES_TARGET = True
SCORE_NAME = "log-probability"
ADDITIVE = True
RETURN_CONDITIONED = False

CRITIC, POLICY = 0, 1
"""Places among the outputs."""


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "awac"  # of the algorithm; or "module:name" of yours
    config.n_step = 1
    config.backup = "chain"
    config.monte_carlo = False
    config.temperature = 0.1  # lambda, of the advantages, whose returns lie in value_range
    config.max_weight = 100.0  # of one action
    config.positive_filter = False  # the policy imitates successful episodes alone
    config.target_rate = 0.005
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    agent = config.agent
    known = tuple(name for name in losses.BACKUPS if name != "skip_decoded")
    of_policy = f"one of {known}: its values are those of its policy, not of a greedy action"
    require(agent.backup in known, "agent.backup", of_policy)
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(agent.max_weight > 0, "agent.max_weight", "a positive number")


def outputs(config: Any) -> int:
    """Returns 2: the critic's logit of a bin and the policy's."""
    return 2


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes the policy's log-probabilities of the bins of one dim."""
    return bc.log_probabilities(bin_mask, logits[..., POLICY])


def candidates(config: Any) -> Any:
    """Returns the policy's log-probabilities and the critic's Q."""

    def of_dim(bin_mask, logits):
        return scores(config, bin_mask, logits), jnp.where(bin_mask, _q(config, logits), -jnp.inf)

    return of_dim


def _q(config: Any, logits: jax.Array) -> jax.Array:
    return losses.sigmoid_values(logits[..., CRITIC], *config.value_range)


def action_values(config: Any, network: Network, params: dict, segment: Segment) -> jax.Array:
    """Computes Q of each step's whole action, [B, S]."""
    q = losses.taken(_q(config, network.score(params, segment)), segment.tokens)
    return losses.of_whole_action(q, segment.action_mask)


def loss(
    config: Any,
    network: Network,
    params: dict,
    target_params: dict,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes critic and policy loss, summed over trainable steps and present dims, and their count.

    The critic's is the squared error of Q(s, a^{1:i}) to the mean of the next dim's Q under the policy; after
    the last dim, to r + gamma times that of the next step's first (Eq. 10 of Nair et al., dim by dim). The
    policy's is the cross-entropy weighted by exp(A^i / lambda) (Eq. 13), on what is imitated.
    """
    agent = config.agent
    bin_mask = segment.bin_mask(network.interface.action.max_bins)[:, None]
    logits = network.score(params, segment)
    dropped = logits if dropout_key is None else network.score(params, segment, dropout_key)
    q, log_probs = _q(config, logits), bc.log_probabilities(bin_mask, dropped[..., POLICY])
    probs = jax.lax.stop_gradient(jnp.exp(bc.log_probabilities(bin_mask, logits[..., POLICY])))
    mean_target = jnp.sum(probs * _q(config, network.score(target_params, segment)), axis=-1)
    targets, backups = q_transformer.td_targets(config, mean_target, segment)
    q_taken = losses.taken(q, segment.tokens)
    advantage = jax.lax.stop_gradient(q_taken - jnp.sum(probs * q, axis=-1))
    weight = losses.advantage_weight(advantage, agent.temperature, agent.max_weight)
    imitated = bc.imitable(segment)
    if agent.positive_filter:
        imitated &= segment.success[:, None, None]
    policy_terms = jnp.where(imitated, -weight * losses.taken(log_probs, segment.tokens), 0.0)
    critic_terms = losses.squared_value_loss(q_taken, targets)

    mask = segment.trainable[..., None] & segment.action_mask
    return {
        "loss": losses.masked_sum(critic_terms + policy_terms, mask),
        "critic_loss": losses.masked_sum(critic_terms, mask),
        "policy_loss": losses.masked_sum(policy_terms, mask),
        "advantage": losses.masked_sum(advantage, mask),
        "weight": losses.masked_sum(weight, imitated),
        "q_taken": losses.masked_sum(q_taken, mask),
        "mc_return": losses.masked_sum(segment.mc_return[..., None], mask),
        "mc_clamp_share": losses.masked_sum(targets > backups, mask),
    }
