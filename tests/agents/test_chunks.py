"""Chunks of two actions of one dim: backups go over both, and end where the episode ends."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax import losses
from qt_jax.agents import awac, bc, iql, q_transformer
from tests.agents import by_hand

STATES = [[[0.2, 0.6, 0.1], [0.3, 0.5, 0.4]], [[0.7, 0.1, 0.1], [0.9, 0.8, 0.1]],
          [[0.1, 0.4, 0.3], [0.95, 0.1, 0.1]], [[0.2, 0.1, 0.8], [0.6, 0.1, 0.1]]]  # fmt: skip
"""Q of the target network at the four records: of the first action, and of the second after the data's."""
REWARDS = (0.1, 0.2, 0.3)


def chunked(agent, **settings):
    config = by_hand.config_of(agent, **settings)
    config.model.chunk = 2
    return config


def loss(agent, config, online, target, batch):
    return by_hand.loss(agent, config, by_hand.NETWORK, online, target, batch, None)


def segment(terminal):
    """The last decision has one action within the episode. Discounts are 1/2 a step."""
    batch = by_hand.segment(REWARDS, bins=(3, 3), terminal=terminal)
    return dataclasses.replace(batch, action_mask=batch.action_mask.at[0, 2, 1].set(False))


@pytest.mark.parametrize("terminal, at_end", [(True, 0.0), (False, 0.8)])
def test_targets_by_hand(terminal, at_end):
    """A chunk's second action takes both rewards, and what is attainable two steps on."""
    config = chunked(q_transformer, monte_carlo=False)
    batch = segment(terminal)
    targets, _ = q_transformer.targets(config, by_hand.ENSEMBLE, by_hand.logits(*STATES), batch)
    expected = [
        (0.5, 0.1 + 0.5 * 0.2 + 0.25 * 0.4),
        (0.9, 0.2 + 0.5 * 0.3 + 0.25 * at_end),
        (0.3 + 0.5 * at_end,),
    ]
    found = [targets[0, t, : len(row)] for t, row in enumerate(expected)]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-5)

    online = by_hand.logits(*[[[0.5] * 3] * 2] * 4)
    sums = loss(q_transformer, config, online, by_hand.logits(*STATES), batch)
    squared = 0.5 * np.square(0.5 - np.concatenate(expected))
    np.testing.assert_allclose(losses.mean(sums["value_loss"]), squared.mean(), rtol=1e-4)
    assert sums["value_loss"][1] == 5


def test_of_two_decisions_a_backup_goes_over_four_steps():
    config = chunked(q_transformer, monte_carlo=False, n_step=2)
    targets, _ = q_transformer.targets(config, by_hand.ENSEMBLE, by_hand.logits(*STATES), segment(False))
    np.testing.assert_allclose(targets[0, 0, 1], 0.1 + 0.5 * 0.2 + 0.25 * 0.3 + 0.125 * 0.8, rtol=1e-5)


def test_iql_by_hand():
    """Of constant outputs: both critics 1/2, V 0.4."""
    critics, value = jnp.zeros((1, 4, 2, 3, 2)), by_hand.logits(*[[[0.4] * 3] * 2] * 4)
    params = by_hand.outputs(critics, jnp.zeros((1, 4, 2, 3, 1)), value)
    sums = loss(iql, chunked(iql), params, params, segment(False))
    whole = 0.1 + 0.5 * 0.2 + 0.25 * 0.4, 0.2 + 0.5 * 0.3 + 0.25 * 0.4, 0.3 + 0.5 * 0.4
    squared = 0.5 * np.square(0.5 - np.asarray(whole))
    # A mean over five dims: two of each whole chunk, and one of the last.
    np.testing.assert_allclose(losses.mean(sums["critic_loss"]), squared @ [2, 2, 1] / 5, rtol=1e-5)


def test_awac_by_hand():
    """The mean of Q under a policy that always takes the data's actions (1, 0), (2, 1), 0."""
    taken = jnp.asarray([[[1, 0], [2, 1], [0, 1], [0, 0]]])
    policy = jnp.where(jnp.arange(3) == taken[..., None], 0.0, -1e9)[..., None]
    online, target = (by_hand.outputs(q, policy) for q in (jnp.zeros_like(policy), by_hand.logits(*STATES)))
    sums = loss(awac, chunked(awac), online, target, segment(True))
    targets = 0.3, 0.1 + 0.5 * 0.2 + 0.25 * 0.1, 0.8, 0.2 + 0.5 * 0.3, 0.3
    squared = 0.5 * np.square(0.5 - np.asarray(targets))
    np.testing.assert_allclose(losses.mean(sums["critic_loss"]), squared.mean(), rtol=1e-4)


def test_imitation_counts_the_actions_within_the_episode():
    probabilities = [[0.2, 0.5, 0.3], [0.25, 0.7, 0.05]]
    params = by_hand.policy(*[probabilities] * 4)
    sums = loss(bc, chunked(bc), params, None, segment(True))
    expected = -np.log([0.5, 0.25, 0.3, 0.7, 0.2])
    np.testing.assert_allclose(losses.mean(sums["loss"]), expected.mean(), rtol=1e-5)
    assert sums["loss"][1] == 5
