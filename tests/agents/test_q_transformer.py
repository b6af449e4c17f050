"""The whole loss of Eq. 2 against numbers worked out by hand: a three-bin dim, a two-bin gripper, one terminal transition."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from qt_jax import losses
from qt_jax.agents import q_transformer
from qt_jax.segment import Segment
from qt_jax.specs import ActionSpec

ACTION = ActionSpec(("x", "gripper"), (-1.0, -1.0), (1.0, 1.0), (3, 2))


def logits(values):
    """Q of one transition's bins (and of its last record) as the network's output [1, 2, D, N, 1]."""
    q = jnp.asarray([[values, values]], jnp.float32)
    return jax.scipy.special.logit(q)[..., None]


ONLINE = logits([[0.2, 0.5, 0.1], [0.4, 0.3, 0.9]])  # the gripper's third bin does not exist
TARGET = logits([[0.6, 0.1, 0.3], [0.5, 0.7, 0.99]])
NETWORK = types.SimpleNamespace(action=ACTION, score=lambda params, segment, dropout_key=None: params)


def segment(reward=0.3, gripper=True):
    row = lambda *values: jnp.asarray([values])
    return Segment(
        images={}, camera_mask={}, state=jnp.zeros((1, 2, 0)), instruction=jnp.zeros((1, 4)), tokens=jnp.asarray([[[1, 0], [0, 0]]]),
        bins=jnp.asarray([[3, 2 if gripper else 0]]), relabelled=jnp.asarray([False]),
        action_mask=jnp.asarray([[[True, gripper]] * 2]), reward=row(reward, 0.0), mc_return=row(reward, 0.0), dt=row(1.0, 1.0),
        is_first=row(True, False), is_last=row(False, True), is_terminal=row(False, True), valid=row(True, True),
        trainable=row(True, False), success=jnp.asarray([True]),
    )  # fmt: skip


def loss(batch, **settings):
    config = ml_collections.ConfigDict({"agent": q_transformer.get_config(), "value_range": (0.0, 1.0), "discount": 0.5, "dt_ref": 1.0})
    config.agent.update({"alpha": 2.0} | settings)
    metrics = {name: losses.mean(total) for name, total in q_transformer.loss(config, NETWORK, ONLINE, TARGET, batch, None).items()}
    return metrics["loss"], metrics


def test_loss_by_hand():
    value, metrics = loss(segment())
    # x: target max(0.5, 0.7) of the gripper's bins; gripper: the reward, for the step is terminal.
    expected_value = (0.5 * (0.5 - 0.7) ** 2 + 0.5 * (0.4 - 0.3) ** 2) / 2
    # Both dims divide by N_max - 1 = 2.
    expected_conservative = (0.5 * (0.2**2 + 0.1**2) / 2 + 0.5 * 0.3**2 / 2) / 2
    np.testing.assert_allclose(metrics["value_loss"], expected_value, rtol=1e-5)
    np.testing.assert_allclose(metrics["conservative_loss"], expected_conservative, rtol=1e-5)
    np.testing.assert_allclose(value, expected_value + 2.0 * expected_conservative, rtol=1e-5)


def test_an_absent_dim_leaves_the_chain_and_both_means():
    value, _ = loss(segment(gripper=False))
    np.testing.assert_allclose(value, 0.5 * (0.5 - 0.3) ** 2 + 2.0 * 0.5 * (0.2**2 + 0.1**2) / 2, rtol=1e-5)


def test_the_monte_carlo_return_lifts_every_dim_and_the_reward_counts():
    _, metrics = loss(segment(reward=0.9))
    np.testing.assert_allclose(metrics["target"], 0.9, rtol=1e-5)
    np.testing.assert_allclose(metrics["mc_clamp_share"], 0.5)
    _, without = loss(segment(reward=0.9), monte_carlo=False)
    np.testing.assert_allclose(without["target"], (0.7 + 0.9) / 2, rtol=1e-5)


def test_steps_that_are_not_trainable_change_nothing():
    batch = segment()
    changed = dataclasses.replace(batch, reward=batch.reward.at[0, 1].set(5.0), tokens=batch.tokens.at[0, 1].set(1))
    np.testing.assert_array_equal(loss(batch)[0], loss(changed)[0])
