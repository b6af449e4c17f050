import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.agents import cql
from tests.agents import by_hand
from tests.agents.by_hand import segment

ONLINE, TARGET = by_hand.logits(by_hand.Q, by_hand.Q), by_hand.logits(by_hand.Q_TARGET, by_hand.Q_TARGET)
X_PENALTY = np.log(np.exp(0.2) + np.exp(0.5) + np.exp(0.1)) - 0.5
GRIPPER_PENALTY = np.log(np.exp(0.4) + np.exp(0.3)) - 0.4


def test_loss_by_hand():
    found = by_hand.means(cql, ONLINE, TARGET, segment(), alpha=2.0, temperature=1.0)
    value = (0.5 * (0.5 - 0.7) ** 2 + 0.5 * (0.4 - 0.3) ** 2) / 2
    np.testing.assert_allclose(found["conservative_loss"], (X_PENALTY + GRIPPER_PENALTY) / 2, rtol=1e-5)
    np.testing.assert_allclose(found["loss"], value + 2.0 * (X_PENALTY + GRIPPER_PENALTY) / 2, rtol=1e-5)


def test_a_temperature_sharpens_the_penalty():
    found = by_hand.means(cql, ONLINE, TARGET, segment(), temperature=0.1)
    x, gripper = (0.1 * np.log(np.exp(np.divide(q, 0.1)).sum()) for q in ([0.2, 0.5, 0.1], [0.4, 0.3]))
    np.testing.assert_allclose(found["conservative_loss"], (x - 0.5 + gripper - 0.4) / 2, rtol=1e-4)


def test_an_absent_dim_leaves_the_loss():
    found = by_hand.means(cql, ONLINE, TARGET, segment(bins=(3, 0)), alpha=2.0, temperature=1.0)
    np.testing.assert_allclose(found["loss"], 0.5 * (0.5 - 0.3) ** 2 + 2.0 * X_PENALTY, rtol=1e-5)


def test_two_steps_bootstrap_and_the_monte_carlo_return_lifts_nothing():
    batch = segment([0.1, 0.3])
    online = by_hand.logits(by_hand.Q, by_hand.Q, by_hand.Q)
    target = by_hand.logits(by_hand.Q_TARGET, [[0.1, 0.2, 0.4], [0.8, 0.6, 0.99]], by_hand.Q)
    found = by_hand.means(cql, online, target, batch)
    # The gripper of the first step: 0.1 + 0.5 * 0.4, x's maximum in the second state.
    np.testing.assert_allclose(found["target"], (0.7 + 0.3 + 0.8 + 0.3) / 4, rtol=1e-5)
    lifted = by_hand.means(
        cql, online, target, dataclasses.replace(batch, mc_return=jnp.full_like(batch.mc_return, 0.99))
    )
    np.testing.assert_array_equal(lifted["loss"], found["loss"])


def test_steps_that_are_not_trainable_change_nothing():
    one, other = (
        by_hand.means(cql, ONLINE, TARGET, batch)
        for batch in (segment(), by_hand.with_other_last_record(segment()))
    )
    np.testing.assert_array_equal(one["loss"], other["loss"])


def test_gradients_by_hand():
    """Of the value and conservative terms alone: the targets have none."""

    def total(online, target):
        return by_hand.sums(cql, online, target, segment(), alpha=2.0, temperature=1.0)["loss"][0]

    gradient, of_target = jax.grad(total, (0, 1))(ONLINE, TARGET)
    assert not of_target.any() and not gradient[0, 1].any()
    q = np.asarray([0.2, 0.5, 0.1])
    of_q = np.asarray([0.0, 0.5 - 0.7, 0.0]) + 2.0 * (np.exp(q) / np.exp(q).sum() - [0.0, 1.0, 0.0])
    np.testing.assert_allclose(gradient[0, 0, 0, :, 0], of_q * q * (1 - q), rtol=1e-4)
