"""Advantage-weighted actor-critic (AWAC, Nair et al. 2020) on the autoregressive Q.

With `positive_filter` the actor imitates successful episodes alone, as AW-Opt's does (Lu et al. 2021).
Each bin has the critic's outputs and, last, the policy's. Only the actor has dropout.

The mean of Q under the policy, a sample in the papers, is exact here: dim by dim, over its bins.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from qt_jax import losses
from qt_jax.agents import bc, critic, q_transformer
from qt_jax.agents.checks import Require
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.network import Network
from qt_jax.segment import Segment

SCORE_NAME = "log-probability"
ADDITIVE = True
RETURN_CONDITIONED = False

POLICY = -1
"""Place among the outputs; before it the critic's."""

ADVANTAGES = ("dim", "action")


def get_config() -> ml_collections.ConfigDict:
    """Returns the settings with their defaults."""
    config = ml_collections.ConfigDict()
    config.name = "awac"  # of the algorithm; or "module:name" of yours
    config.n_step = 1
    config.backup = "chain"  # or "skip_first_dim" (method.md, section 1)
    config.monte_carlo = False
    config.value_loss = "squared"
    config.value_cells = 51
    config.advantage_of = "dim"  # of each dim its own; or "action": of all dims that of the whole action
    config.temperature = 0.1  # lambda, of the advantages, whose returns lie in value_range
    config.max_weight = 100.0  # of one action
    config.policy_weight = 1.0  # of the policy's loss beside the values', with which it shares the network
    config.label_width = 0.0  # of a kernel: the action taken counts for neighbouring bins too, as in bc.py
    config.positive_filter = False  # the policy imitates successful episodes alone
    config.target_q = "mean"
    config.acting_q = "mean"
    config.target_rate = 0.005
    return config


def check(config: Any, require: Require) -> None:
    """See `Agent.check`."""
    agent = config.agent
    bc.check(config, require)
    critic.check(config, require)
    require(agent.advantage_of in ADVANTAGES, "agent.advantage_of", f"one of {ADVANTAGES}")
    known = tuple(name for name in losses.BACKUPS if name != "skip_decoded")
    of_policy = f"one of {known}: its values are those of its policy, not of a greedy action"
    require(agent.backup in known, "agent.backup", of_policy)
    require(agent.temperature > 0, "agent.temperature", "a positive number")
    require(agent.max_weight > 0, "agent.max_weight", "a positive number")
    require(0 < agent.policy_weight < math.inf, "agent.policy_weight", "a positive number, and finite")


def outputs(config: Any) -> int:
    """Returns how many outputs a bin has: the critic's and the policy's."""
    return critic.cells(config) + 1


def scores(config: Any, bin_mask: jax.Array, logits: jax.Array) -> jax.Array:
    """Computes the policy's log-probabilities of the bins of one dim."""
    return bc.averaged(bin_mask, logits[..., POLICY])


def candidates(config: Any) -> Any:
    """Returns the policy's log-probabilities and the critic's Q."""

    def of_dim(bin_mask, logits):
        q = losses.of_networks(_q(config, logits), config.agent.acting_q)
        return scores(config, bin_mask, logits), jnp.where(bin_mask, q, -jnp.inf)

    return of_dim


def _q(config: Any, logits: jax.Array) -> jax.Array:
    """Computes the critic's Q of each bin: logits [..., A] -> [...]."""
    return critic.q_values(config, logits[..., :POLICY])[..., 0]


def action_values(config: Any, ensemble: Ensemble, params: dict, segment: Segment) -> jax.Array:
    """Computes Q of each step's whole action, [B, S]."""
    q = losses.of_networks(_q(config, ensemble.score(params, segment)), config.agent.acting_q)
    return losses.of_whole_action(losses.taken(q, segment.tokens), segment.action_mask)


def targets(config: Any, ensemble: Ensemble, target_params: dict, segment: Segment) -> jax.Array:
    """Computes Q of every bin of the target networks, [B, S, D, N]."""
    return losses.of_networks(_q(config, ensemble.score(target_params, segment)), config.agent.target_q)


def loss(
    config: Any,
    network: Network,
    params: dict,
    targets: jax.Array,
    segment: Segment,
    dropout_key: jax.Array | None,
) -> dict[str, losses.Sum]:
    """Computes critic and policy loss, summed over trainable steps and present dims, and their count.

    The critic's is the value loss of Q(s, a^{1:i}) to the mean of the next dim's Q under the policy; after
    the last dim, to r + gamma times that of the next step's first (Eq. 10 of Nair et al., dim by dim). The
    policy's is the cross-entropy weighted by exp(A / lambda) (Eq. 13), on what is imitated; `_advantage` is
    A.
    """
    agent = config.agent
    bin_mask = segment.bin_mask(network.interface.action.max_bins)[:, None]
    logits = network.score(params, segment)
    dropped = logits if dropout_key is None else network.score(params, segment, dropout_key)
    q, log_probs = _q(config, logits), bc.log_probabilities(bin_mask, dropped[..., POLICY])
    probs = jax.lax.stop_gradient(jnp.exp(bc.log_probabilities(bin_mask, logits[..., POLICY])))
    bounded, backups = q_transformer.td_targets(config, jnp.sum(probs * targets, axis=-1), segment)
    q_taken = losses.taken(q, segment.tokens)
    advantage = _advantage(config, q_taken, jnp.sum(probs * q, axis=-1), segment)
    weight = losses.advantage_weight(advantage, agent.temperature, agent.max_weight)
    imitated = bc.imitable(segment)
    if agent.positive_filter:
        imitated &= segment.success[:, None, None]
    imitation = bc.imitation_terms(config, bin_mask, log_probs, segment)
    policy_terms = jnp.where(imitated, weight * imitation, 0.0)
    outputs = critic.taken(logits[..., :POLICY], segment.tokens)
    critic_terms = critic.loss(config, outputs, q_taken[..., None], bounded)[..., 0]

    mask = segment.trainable[..., None] & segment.action_mask
    return {
        "loss": losses.masked_sum(critic_terms + agent.policy_weight * policy_terms, mask),
        "critic_loss": losses.masked_sum(critic_terms, mask),
        "policy_loss": losses.masked_sum(policy_terms, mask),
        "advantage": losses.masked_sum(advantage, mask),
        "weight": losses.masked_sum(weight, imitated),
        "q_taken": losses.masked_sum(q_taken, mask),
        "mc_return": losses.masked_sum(segment.mc_return[..., None], mask),
        "mc_clamp_share": losses.masked_sum(bounded > backups, mask),
    }


def _advantage(config: Any, q_taken: jax.Array, means: jax.Array, segment: Segment) -> jax.Array:
    """Computes the advantage by which each dim's bin is weighed, [B, S, D], without gradient.

    "dim": of each dim i Q(s, a^{1:i}) less the mean of that dim's Q under the policy (of this project).
    "action": of every dim A(s, a) = Q(s, a) - V(s) (Nair et al., Eq. 13). Q of the whole action is that of
    its last dim. V is the mean of the first dim's Q under the policy, for that dim sees no action.

    Args:
        config: the experiment's.
        q_taken: [B, S, D], Q of the bins taken.
        means: [B, S, D], of each dim's Q under the policy.
        segment: of these steps.

    """
    if config.agent.advantage_of == "dim":
        return jax.lax.stop_gradient(q_taken - means)
    of_action = losses.of_whole_action(q_taken, segment.action_mask)
    of_state = jax.vmap(losses.state_value)(means, segment.action_mask)
    return jax.lax.stop_gradient(jnp.broadcast_to((of_action - of_state)[..., None], q_taken.shape))
