"""Two critics, a policy and a state value against numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax.agents import iql
from tests.agents import by_hand
from tests.agents.by_hand import segment
from tests.models.test_q_transformer import make_network, make_params, make_segment

SECOND = [[0.3, 0.4, 0.6], [0.6, 0.8, 0.1]]
SECOND_TARGET = [[0.2, 0.9, 0.4], [0.8, 0.65, 0.97]]


def values(*means):
    """Outputs of the state value: around one mean a record at x, another one at the gripper."""
    rows = [[[m - 1.0, m, m + 1.0], [4.0, 6.0, 9.0]] for m in means]
    return jnp.asarray([rows])[..., None]


def network_outputs(first, second, *means):
    def repeat(rows):
        return [rows] * len(means)

    return by_hand.outputs(
        by_hand.logits(*repeat(first)),
        by_hand.logits(*repeat(second)),
        by_hand.policy(*repeat(by_hand.PROBABILITIES)),
        values(*means),
    )


ONLINE, TARGET = (
    network_outputs(by_hand.Q, SECOND, -1.0, 3.0),
    network_outputs(by_hand.Q_TARGET, SECOND_TARGET, 7.0, 7.0),
)
V = 1 / (1 + np.exp(1.0))
U = 0.5 - V  # the lesser of the target critics' Q of the gripper's first bin, 0.5 and 0.8
WEIGHT = np.exp(U / 0.1)
VALUE_LOSS = 0.7 * U**2
CRITIC_LOSS = (0.5 * (0.4 - 0.3) ** 2 + 0.5 * (0.6 - 0.3) ** 2) / 2


def test_loss_by_hand():
    found = by_hand.means(iql, ONLINE, TARGET, segment())
    policy_loss = -WEIGHT * (np.log(0.5) + np.log(0.25)) / 2
    np.testing.assert_allclose(found["value_loss"], VALUE_LOSS, rtol=1e-4)
    np.testing.assert_allclose(found["critic_loss"], CRITIC_LOSS, rtol=1e-4)
    np.testing.assert_allclose(found["policy_loss"], policy_loss, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], VALUE_LOSS + CRITIC_LOSS + policy_loss, rtol=1e-4)


def two_records(batch, **settings):
    """The critics' loss of two transitions, and a function of their targets that should give it.

    After the transitions V is .12 and .73.
    """
    online, target = (
        network_outputs(by_hand.Q, SECOND, -1.0, -2.0, 1.0),
        network_outputs(by_hand.Q_TARGET, SECOND_TARGET, 7.0, 7.0, 7.0),
    )

    # Q of the gripper's bins taken, the first and then the second.
    def squares(first, second):
        return (0.4 - first) ** 2 + (0.6 - first) ** 2 + (0.3 - second) ** 2 + (0.8 - second) ** 2

    return by_hand.means(iql, online, target, batch, **settings)[
        "critic_loss"
    ], lambda *targets: 0.5 * squares(*targets) / 4


V_SECOND, V_LAST = 1 / (1 + np.exp(2.0)), 1 / (1 + np.exp(-1.0))


@pytest.mark.parametrize("terminal", [True, False])
def test_two_records_bootstrap_from_the_state_value(terminal):
    found, expected = two_records(segment([0.1, 0.3], (3, 2), terminal))
    np.testing.assert_allclose(
        found, expected(0.1 + 0.5 * V_SECOND, 0.3 + (0.0 if terminal else 0.5 * V_LAST)), rtol=1e-4
    )


def test_two_steps_at_once_and_what_is_left_of_them():
    found, expected = two_records(segment([0.1, 0.3], terminal=False), n_step=2)
    np.testing.assert_allclose(
        found, expected(0.1 + 0.5 * 0.3 + 0.25 * V_LAST, 0.3 + 0.5 * V_LAST), rtol=1e-4
    )


def test_a_decision_of_twice_the_reference_is_discounted_twice():
    batch = segment([0.1, 0.3], terminal=False)
    found, expected = two_records(dataclasses.replace(batch, dt=2 * batch.dt))
    np.testing.assert_allclose(found, expected(0.1 + 0.25 * V_SECOND, 0.3 + 0.25 * V_LAST), rtol=1e-4)


def test_without_a_gripper_x_is_the_whole_action():
    found = by_hand.means(iql, ONLINE, TARGET, segment(bins=(3, 0)))
    u = 0.1 - V  # of 0.1 and 0.9; negative: the expectile's other side
    critic_loss = (0.5 * (0.5 - 0.3) ** 2 + 0.5 * (0.4 - 0.3) ** 2) / 2
    np.testing.assert_allclose(
        found["loss"], 0.3 * u**2 + critic_loss - np.exp(u / 0.1) * np.log(0.5), rtol=1e-4
    )


def test_without_x_the_gripper_has_the_state_value():
    found = by_hand.means(iql, ONLINE, TARGET, segment(bins=(0, 2)))
    np.testing.assert_allclose(found["advantage"], 0.5 - 1 / (1 + np.exp(-5.0)), rtol=1e-4)


def test_weights_are_clipped():
    found = by_hand.means(iql, ONLINE, TARGET, segment(), max_weight=2.0)
    np.testing.assert_allclose(found["policy_loss"], -2.0 * (np.log(0.5) + np.log(0.25)) / 2, rtol=1e-4)


def test_the_policys_loss_has_a_weight_beside_the_values():
    found = by_hand.means(iql, ONLINE, TARGET, segment(), policy_weight=0.1)
    np.testing.assert_allclose(
        found["loss"], VALUE_LOSS + CRITIC_LOSS + 0.1 * found["policy_loss"], rtol=1e-4
    )


def test_the_critics_cross_entropy_by_hand():
    found = by_hand.means(iql, ONLINE, TARGET, segment(), value_loss="logistic")
    expected = -sum(0.3 * np.log(q) + 0.7 * np.log(1 - q) for q in (0.4, 0.6)) / 2
    np.testing.assert_allclose(found["critic_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["value_loss"], VALUE_LOSS, rtol=1e-4)


def test_the_critics_histograms_by_hand():
    """Every output of both critics flat, so that Q is .5, but of the second's gripper taken."""
    flat, others = jnp.zeros((1, 2, 2, 3, 8)), ONLINE[..., 2:]
    second = flat.at[0, 0, 1, 0].set(np.log(by_hand.CELLS))
    online, target = by_hand.outputs(flat, second, others), by_hand.outputs(flat, flat, others)
    found = by_hand.means(iql, online, target, segment(), value_loss="histogram", value_cells=8)
    expected = by_hand.divergence(0.3, np.full(8, 1 / 8)) + by_hand.divergence(0.3, by_hand.CELLS)
    np.testing.assert_allclose(found["critic_loss"], expected / 2, rtol=1e-4)
    np.testing.assert_allclose(found["value_loss"], VALUE_LOSS, rtol=1e-4)  # .5 less V, as above
    np.testing.assert_allclose(found["q_taken"], min(0.5, by_hand.mean_of(by_hand.CELLS)), rtol=1e-5)


def test_relabelled_segments_have_no_policy_term():
    found = by_hand.means(iql, ONLINE, TARGET, by_hand.relabelled(segment()))
    assert found["policy_loss"] == 0
    np.testing.assert_allclose(found["loss"], VALUE_LOSS + CRITIC_LOSS, rtol=1e-4)


def test_steps_that_are_not_trainable_change_nothing():
    one, other = (
        by_hand.means(iql, ONLINE, TARGET, batch)
        for batch in (segment(), by_hand.with_other_last_record(segment()))
    )
    np.testing.assert_array_equal(one["loss"], other["loss"])


def test_only_the_policy_has_dropout():
    assert by_hand.only_the_policy_has_dropout(iql, ONLINE, TARGET, segment())


def test_gradients_by_hand():
    """The value learns from its own term alone.

    It is also in the weights and, of the state after a cut, in the targets.
    """

    def total(online, target):
        return by_hand.sums(iql, online, target, segment(terminal=False))["loss"][0]

    gradient, of_target = jax.grad(total, (0, 1))(ONLINE, TARGET)
    assert not of_target.any() and not gradient[0, 1].any()
    dims = 2
    np.testing.assert_allclose(
        gradient[0, 0, 0, :, 3], np.full(3, dims * 0.7 * 2 * -U * V * (1 - V) / 3), rtol=1e-4
    )
    target = 0.3 + 0.5 / (1 + np.exp(-3.0))
    of_critics = np.asarray([(0.4 - target) * 0.4 * 0.6, (0.6 - target) * 0.6 * 0.4]) * dims / 2
    np.testing.assert_allclose(gradient[0, 0, 1, 0, :2], of_critics, rtol=1e-4)
    np.testing.assert_allclose(gradient[0, 0, 0, :, 2], WEIGHT * np.asarray([0.2, 0.5 - 1.0, 0.3]), rtol=1e-4)


def test_the_state_value_sees_no_action_and_the_critics_do():
    network, batch = make_network(cameras=(), outputs=4), make_segment(cameras=())
    params, config = make_params(network), by_hand.config_of(iql)
    other = dataclasses.replace(batch, tokens=1 - batch.tokens)

    def v_and_q(batch):
        logits = network.score(params, batch)
        bin_mask = batch.bin_mask(network.interface.action.max_bins)
        return iql.state_values(config, logits, batch, bin_mask), iql.whole_action(config, logits, batch)[1]

    (v, q), (other_v, other_q) = v_and_q(batch), v_and_q(other)
    np.testing.assert_array_equal(v, other_v)
    assert (np.abs(q - other_q) > 1e-4).all()


def test_scores_are_the_policys_log_probabilities():
    bin_mask = by_hand.ACTION.bin_mask()
    np.testing.assert_allclose(
        iql.scores(None, bin_mask[1], ONLINE[:, 0, 1]), [np.log(0.25), np.log(0.75), -np.inf], rtol=1e-5
    )


def test_values_are_the_lesser_critics():
    found = iql.action_values(by_hand.config_of(iql), by_hand.ENSEMBLE, ONLINE, segment())
    np.testing.assert_allclose(found, [[0.4, 0.4]], rtol=1e-5)
