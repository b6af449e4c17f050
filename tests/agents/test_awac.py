"""A critic and a policy against numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax.agents import awac
from tests.agents import by_hand
from tests.agents.by_hand import segment


def network_outputs(*records):
    return by_hand.outputs(by_hand.logits(*records), by_hand.policy(*[by_hand.PROBABILITIES] * len(records)))


ONLINE, TARGET = network_outputs(by_hand.Q, by_hand.Q), network_outputs(by_hand.Q_TARGET, by_hand.Q_TARGET)
GRIPPER_MEAN = 0.25 * 0.5 + 0.75 * 0.7  # of the target critic under the policy
X_ADVANTAGE = 0.5 - (0.2 * 0.2 + 0.5 * 0.5 + 0.3 * 0.1)
GRIPPER_ADVANTAGE = 0.4 - (0.25 * 0.4 + 0.75 * 0.3)
X_WEIGHT, GRIPPER_WEIGHT = np.exp(X_ADVANTAGE / 0.1), np.exp(GRIPPER_ADVANTAGE / 0.1)
CRITIC_LOSS = (0.5 * (0.5 - GRIPPER_MEAN) ** 2 + 0.5 * (0.4 - 0.3) ** 2) / 2
POLICY_LOSS = -(X_WEIGHT * np.log(0.5) + GRIPPER_WEIGHT * np.log(0.25)) / 2


def test_loss_by_hand():
    found = by_hand.means(awac, ONLINE, TARGET, segment())
    np.testing.assert_allclose(found["critic_loss"], CRITIC_LOSS, rtol=1e-4)
    np.testing.assert_allclose(found["advantage"], (X_ADVANTAGE + GRIPPER_ADVANTAGE) / 2, rtol=1e-4)
    np.testing.assert_allclose(found["weight"], (X_WEIGHT + GRIPPER_WEIGHT) / 2, rtol=1e-4)
    np.testing.assert_allclose(found["policy_loss"], POLICY_LOSS, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], CRITIC_LOSS + POLICY_LOSS, rtol=1e-4)


@pytest.mark.parametrize("terminal", [True, False])
def test_two_steps_bootstrap_from_the_mean_under_the_policy(terminal):
    target = network_outputs(by_hand.Q_TARGET, [[0.1, 0.2, 0.4], [0.8, 0.6, 0.99]], by_hand.Q)
    found = by_hand.means(
        awac, network_outputs(*[by_hand.Q] * 3), target, segment([0.1, 0.3], (3, 2), terminal)
    )
    gripper = 0.1 + 0.5 * (0.2 * 0.1 + 0.5 * 0.2 + 0.3 * 0.4)
    next_x, next_gripper = (
        0.25 * 0.8 + 0.75 * 0.6,
        0.3 + (0.0 if terminal else 0.5 * (0.2 * 0.2 + 0.5 * 0.5 + 0.3 * 0.1)),
    )
    squares = (
        (0.5 - GRIPPER_MEAN) ** 2 + (0.4 - gripper) ** 2 + (0.1 - next_x) ** 2 + (0.3 - next_gripper) ** 2
    )
    np.testing.assert_allclose(found["critic_loss"], 0.5 * squares / 4, rtol=1e-4)


def test_the_monte_carlo_return_lifts_the_critics_targets():
    found = by_hand.means(awac, ONLINE, TARGET, segment([0.9]), monte_carlo=True)
    np.testing.assert_allclose(
        found["critic_loss"], (0.5 * (0.5 - 0.9) ** 2 + 0.5 * (0.4 - 0.9) ** 2) / 2, rtol=1e-4
    )
    assert found["mc_clamp_share"] == 0.5, "of x; the gripper's target is the reward as it is"


def test_an_absent_dim_leaves_the_loss():
    found = by_hand.means(awac, ONLINE, TARGET, segment(bins=(3, 0)))
    np.testing.assert_allclose(found["loss"], 0.5 * (0.5 - 0.3) ** 2 - X_WEIGHT * np.log(0.5), rtol=1e-4)


def test_weights_are_clipped():
    found = by_hand.means(awac, ONLINE, TARGET, segment(), max_weight=3.0)  # between the two
    np.testing.assert_allclose(
        found["policy_loss"], -(3.0 * np.log(0.5) + GRIPPER_WEIGHT * np.log(0.25)) / 2, rtol=1e-4
    )


def test_the_policys_loss_has_a_weight_beside_the_critics():
    found = by_hand.means(awac, ONLINE, TARGET, segment(), policy_weight=0.1)
    np.testing.assert_allclose(found["loss"], CRITIC_LOSS + 0.1 * POLICY_LOSS, rtol=1e-4)


@pytest.mark.parametrize(
    "bins, advantage",
    [
        # Q of the whole action is that of the gripper taken, V the mean of x under the policy.
        ((3, 2), 0.4 - (0.2 * 0.2 + 0.5 * 0.5 + 0.3 * 0.1)),
        ((3, 0), X_ADVANTAGE),
        ((0, 2), GRIPPER_ADVANTAGE),
    ],
)
def test_the_advantage_of_the_whole_action_weighs_each_of_its_dims(bins, advantage):
    found = by_hand.means(awac, ONLINE, TARGET, segment(bins=bins), advantage_of="action")
    logs = [np.log(p) for p, size in zip((0.5, 0.25), bins) if size]
    np.testing.assert_allclose(found["advantage"], advantage, rtol=1e-4)
    np.testing.assert_allclose(found["policy_loss"], -np.exp(advantage / 0.1) * np.mean(logs), rtol=1e-4)


def test_the_advantage_of_the_whole_action_has_no_gradient():
    def gradient(name):
        def total(online):
            return by_hand.sums(awac, online, TARGET, segment(), advantage_of="action")[name][0]

        return jax.grad(total)(ONLINE)

    np.testing.assert_array_equal(gradient("loss")[..., 0], gradient("critic_loss")[..., 0])


def test_the_cross_entropy_by_hand():
    found = by_hand.means(awac, ONLINE, TARGET, segment(), value_loss="logistic")

    def cross_entropy(q, y):
        return -y * np.log(q) - (1 - y) * np.log(1 - q)

    expected = (cross_entropy(0.5, GRIPPER_MEAN) + cross_entropy(0.4, 0.3)) / 2
    np.testing.assert_allclose(found["critic_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["policy_loss"], POLICY_LOSS, rtol=1e-4)


def test_histograms_by_hand():
    """Every output of the critic flat, so that Q is .5, but of the x taken."""
    flat, policy = jnp.zeros((1, 2, 2, 3, 8)), ONLINE[..., 1:]
    online = flat.at[0, 0, 0, 1].set(np.log(by_hand.CELLS))
    online, target = by_hand.outputs(online, policy), by_hand.outputs(flat, policy)
    found = by_hand.means(awac, online, target, segment(), value_loss="histogram", value_cells=8)
    # x: the mean of the gripper's Q; gripper: the reward
    expected = by_hand.divergence(0.5, by_hand.CELLS) + by_hand.divergence(0.3, np.full(8, 1 / 8))
    np.testing.assert_allclose(found["critic_loss"], expected / 2, rtol=1e-4)
    q = by_hand.mean_of(by_hand.CELLS)
    np.testing.assert_allclose(found["advantage"], (q - (0.5 * 0.5 + 0.5 * q)) / 2, rtol=1e-4)


def test_the_positive_filter_imitates_successes_alone():
    failure = dataclasses.replace(segment(), success=jnp.asarray([False]))
    found = by_hand.means(awac, ONLINE, TARGET, failure, positive_filter=True)
    assert found["policy_loss"] == 0
    np.testing.assert_allclose(found["loss"], CRITIC_LOSS, rtol=1e-4)
    for batch, filtered in ((segment(), True), (failure, False)):
        np.testing.assert_allclose(
            by_hand.means(awac, ONLINE, TARGET, batch, positive_filter=filtered)["policy_loss"],
            POLICY_LOSS,
            rtol=1e-4,
        )


def test_relabelled_segments_have_no_policy_term():
    found = by_hand.means(awac, ONLINE, TARGET, by_hand.relabelled(segment()))
    assert found["policy_loss"] == 0
    np.testing.assert_allclose(found["loss"], CRITIC_LOSS, rtol=1e-4)


def test_steps_that_are_not_trainable_change_nothing():
    one, other = (
        by_hand.means(awac, ONLINE, TARGET, batch)
        for batch in (segment(), by_hand.with_other_last_record(segment()))
    )
    np.testing.assert_array_equal(one["loss"], other["loss"])


def test_only_the_policy_has_dropout():
    assert by_hand.only_the_policy_has_dropout(awac, ONLINE, TARGET, segment())


def test_gradients_by_hand():
    """The critic learns from its own term alone, though it is in the weights.

    The policy from its own, though it is in the targets.
    """

    def total(online, target):
        return by_hand.sums(awac, online, target, segment(terminal=False))["loss"][0]

    gradient, of_target = jax.grad(total, (0, 1))(ONLINE, TARGET)
    assert not of_target.any() and not gradient[0, 1].any()
    np.testing.assert_allclose(
        gradient[0, 0, 0, :, 0], [0.0, (0.5 - GRIPPER_MEAN) * 0.5 * 0.5, 0.0], atol=1e-6
    )
    np.testing.assert_allclose(
        gradient[0, 0, 0, :, 1], X_WEIGHT * np.asarray([0.2, 0.5 - 1.0, 0.3]), rtol=1e-4
    )
    np.testing.assert_allclose(
        gradient[0, 0, 1, :, 1], GRIPPER_WEIGHT * np.asarray([0.25 - 1.0, 0.75, 0.0]), rtol=1e-4
    )


def test_scores_are_the_policys_log_probabilities():
    bin_mask = by_hand.ACTION.bin_mask()
    np.testing.assert_allclose(
        awac.scores(None, bin_mask[1], ONLINE[:, 0, 1]), [np.log(0.25), np.log(0.75), -np.inf], rtol=1e-5
    )


def test_values_are_of_the_whole_action():
    found = awac.action_values(by_hand.config_of(awac), by_hand.ENSEMBLE, ONLINE, segment())
    np.testing.assert_allclose(found, [[0.4, 0.4]], rtol=1e-5)
