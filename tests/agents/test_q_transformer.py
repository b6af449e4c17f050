"""The whole loss of Eq. 2 against numbers worked out by hand.

A three-bin dim, a two-bin gripper, one terminal transition.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qt_jax import losses, support
from qt_jax.agents import q_transformer
from qt_jax.errors import UserError
from tests.agents import by_hand
from tests.agents.by_hand import segment

ONLINE, TARGET = by_hand.logits(by_hand.Q, by_hand.Q), by_hand.logits(by_hand.Q_TARGET, by_hand.Q_TARGET)
SECOND_TARGET = [[0.2, 0.9, 0.4], [0.8, 0.65, 0.97]]
TWO_TARGETS = TARGET, by_hand.logits(SECOND_TARGET, SECOND_TARGET)


def loss(batch, online=ONLINE, target=TARGET, **settings):
    metrics = by_hand.means(q_transformer, online, target, batch, **{"alpha": 2.0} | settings)
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


def test_two_skipped_steps_with_cross_entropy_by_hand():
    """As the benchmark has it: no dim is maximised over within a step; the pull is a cross-entropy too."""
    target = by_hand.logits(by_hand.Q_TARGET, by_hand.Q_TARGET, [[0.1, 0.2, 0.9], [0.8, 0.6, 0.99]])
    settings = {"backup": "skip_first_dim", "n_step": 2, "value_loss": "logistic", "monte_carlo": False}
    value, metrics = loss(
        segment([0.1, 0.3], terminal=False), by_hand.logits(*[by_hand.Q] * 3), target, **settings
    )
    first, second = (
        0.1 + 0.5 * 0.3 + 0.25 * 0.9,
        0.3 + 0.5 * 0.9,
    )  # both to the last record's x, for every dim

    def cross_entropy(q, y):
        return -y * np.log(q) - (1 - y) * np.log(1 - q)

    expected_value = (
        sum(cross_entropy(q, y) for q, y in ((0.5, first), (0.4, first), (0.1, second), (0.3, second))) / 4
    )
    pulled = np.log([0.8, 0.9, 0.7, 0.8, 0.5, 0.6])  # 1 - Q of the bins not taken
    np.testing.assert_allclose(metrics["target"], (first + second) / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_loss"], expected_value, rtol=1e-5)
    np.testing.assert_allclose(value, expected_value - 2.0 * pulled.sum() / 2 / 4, rtol=1e-5)


def test_the_papers_n_step_backup_by_hand():
    """Both dims bootstrap from the gripper's best Q after the x that the target network decodes greedily."""
    first = [0.1, 0.2, 0.6]  # of x at every state: its third bin is greedy, though the data took others
    second = [[0.5, 0.7, 0.99], [0.9, 0.1, 0.99], [0.3, 0.4, 0.99]]  # of the gripper, after each bin of x

    def decode_segment(params, segment, scores):
        states = segment.tokens.shape[1]
        x = scores(by_hand.logits(*[[first]] * states)[:, :, 0], 0)
        gripper = scores(by_hand.logits(*[[row] for row in second])[:, :, 0][:, jnp.argmax(x, -1)], 1)
        values = jnp.stack([x, gripper], axis=1)[None]
        return jnp.argmax(values, axis=-1), values

    ensemble = types.SimpleNamespace(**vars(by_hand.ENSEMBLE), decode_segment=decode_segment)
    settings = {"backup": "skip_decoded", "n_step": 2, "monte_carlo": False}
    config, batch = by_hand.config_of(q_transformer, **settings), segment([0.1, 0.3], terminal=False)
    targets, _ = q_transformer.targets(config, ensemble, {}, batch)
    # The gripper's best of two bins after the third x is .4; the greatest of all, .9, is after another x.
    np.testing.assert_allclose(targets[0, 0], [0.1 + 0.5 * 0.3 + 0.25 * 0.4] * 2, rtol=1e-5)
    np.testing.assert_allclose(targets[0, 1], [0.3 + 0.5 * 0.4] * 2, rtol=1e-5)


def test_backups_without_maximisation_agree_for_an_exact_q():
    """Where the first dim's Q is the maximum of the second's, it does not matter which one goes on."""
    table = np.asarray([[0.5, 0.7], [0.9, 0.1], [0.3, 0.4]])
    first = table.max(-1)
    target = by_hand.logits(*[[first.tolist(), [*table[first.argmax()], 0.99]]] * 3)

    def decode_segment(params, segment, scores):
        values = jnp.stack([scores(params[:, :, dim], dim) for dim in range(2)], axis=1)[None]
        return jnp.argmax(values, axis=-1), values

    ensemble = types.SimpleNamespace(**vars(by_hand.ENSEMBLE), decode_segment=decode_segment)
    batch, found = segment([0.1, 0.3], terminal=False), {}
    for backup in ("skip_decoded", "skip_first_dim"):
        config = by_hand.config_of(q_transformer, backup=backup, n_step=2, monte_carlo=False)
        found[backup] = q_transformer.targets(config, ensemble, target, batch)[0][:, :2]
    np.testing.assert_allclose(*found.values(), rtol=1e-6)


HALVES = 1 / (3 * np.log(2))
"""A kernel that halves from bin to bin of three."""


def test_a_value_that_counts_for_neighbouring_bins_by_hand():
    """One step: x 1 of three with Q .2, .5, .1 towards .7, and gripper 0 of two with Q .4, .3 towards .3."""
    value, metrics = loss(segment(), value_width=HALVES, alpha=2.0)
    of_x = 0.5 * 0.5 * 0.5**2 + 0.5 * 0.2**2 + 0.5 * 0.5 * 0.6**2
    pull_of_x = (0.5 * 0.5 * 0.2**2 + 0.5 * 0.5 * 0.1**2) / 2
    of_gripper, pull_of_gripper = 0.5 * 0.1**2, 0.5 * 0.3**2 / 2  # two bins are no neighbours
    np.testing.assert_allclose(metrics["value_loss"], (of_x + of_gripper) / 2, rtol=1e-4)
    np.testing.assert_allclose(metrics["conservative_loss"], (pull_of_x + pull_of_gripper) / 2, rtol=1e-4)
    np.testing.assert_allclose(
        value, (of_x + of_gripper) / 2 + 2 * (pull_of_x + pull_of_gripper) / 2, rtol=1e-4
    )


@pytest.mark.parametrize("value_loss", ["squared", "logistic"])
def test_what_pooled_values_end_in_is_the_closed_form(value_loss):
    """Of x taken in bins 0, 1 and 2 with shares .5, .2 and .3, towards .9, .1 and .6: no gradient is left."""
    shares, worth = np.asarray([0.5, 0.2, 0.3]), np.asarray([0.9, 0.1, 0.6])
    ends = support.closed_form(jnp.asarray(worth), jnp.asarray(shares), jnp.asarray(3), HALVES, 1.5, 0.0)
    online = by_hand.logits(*[[ends.tolist(), [0.5, 0.5, 0.5]]] * 2)

    def of(online, taken):
        target = by_hand.logits(*[[[0.1, 0.1, 0.1], [float(worth[taken]), 0.05, 0.99]]] * 2)
        batch = segment()
        batch = dataclasses.replace(batch, tokens=batch.tokens.at[:, :, 0].set(taken))
        settings = {"value_width": HALVES, "alpha": 1.5, "monte_carlo": False, "value_loss": value_loss}
        return loss(batch, online, target, **settings)[0]

    gradients = [share * jax.grad(of)(online, taken)[0, 0, 0, :, 0] for taken, share in enumerate(shares)]
    np.testing.assert_allclose(sum(gradients), 0.0, atol=1e-6)
    assert max(np.abs(gradient).max() for gradient in gradients) > 1e-3


BEHAVIOUR = [[0.2, 0.5, 0.3], [0.75, 0.25, 9.0]]
"""Probabilities of the bins; the gripper's third does not exist."""


def test_the_behaviour_head_by_hand():
    """One more output a bin, a second task: the values' terms are as without."""
    online = by_hand.outputs(ONLINE, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    plain, _ = loss(segment())
    value, metrics = loss(segment(), online, by_hand.outputs(TARGET, TARGET), behaviour_weight=0.5)
    expected = -(np.log(0.5) + np.log(0.75)) / 2  # the actions taken are x 1, gripper 0
    np.testing.assert_allclose(metrics["behaviour_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, plain + 0.5 * expected, rtol=1e-5)


@pytest.mark.parametrize("changed", [{"success": False}, {"relabelled": True}])
def test_what_the_behaviour_head_does_not_imitate(changed):
    online = by_hand.outputs(ONLINE, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    batch = dataclasses.replace(segment(), **{name: jnp.asarray([on]) for name, on in changed.items()})
    settings = {"behaviour_weight": 0.5, "behaviour_of": "successes"}
    value, metrics = loss(batch, online, by_hand.outputs(TARGET, TARGET), **settings)
    np.testing.assert_allclose((value, metrics["behaviour_loss"]), (loss(batch)[0], 0.0), rtol=1e-5)


@pytest.mark.parametrize(
    "share, width, gripper, next_x",
    [
        (0.0, 0.0, 0.7, 0.6),  # every bin that exists
        (0.3, 0.0, 0.7, 0.6),
        (0.5, 0.0, 0.5, 0.3),  # of x 1 and 2, of the gripper 0
        (1.0, 0.0, 0.5, 0.1),  # the most probable alone
        # A bin is a third of x's range, and as wide as the kernel. Pooled x: .2 + .5/e + .3/e^2 = .42, .68,
        # .51: the first is above .6 of the greatest again. The gripper is not pooled.
        (0.6, 1 / 3, 0.5, 0.6),
    ],
)
def test_maxima_over_supported_bins_by_hand(share, width, gripper, next_x):
    """Of targets: the gripper's, given the x taken, and of the next state's x."""
    target = by_hand.outputs(TARGET, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    online = by_hand.outputs(ONLINE, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    settings = {"behaviour_weight": 1.0, "support": share, "support_width": width, "monte_carlo": False}
    _, metrics = loss(segment([0.1], terminal=False), online, target, **settings)
    np.testing.assert_allclose(metrics["target"], (gripper + 0.1 + 0.5 * next_x) / 2, rtol=1e-5)


CLOSED = {"conservatism": "closed_form", "behaviour_weight": 1.0}


def test_closed_form_conservatism_by_hand():
    """At alpha 2 and three bins c is 1, and Q is p y: wherever Q is used, but in the value loss."""
    online = by_hand.outputs(ONLINE, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    target = by_hand.outputs(TARGET, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    value, metrics = loss(segment([0.1], terminal=False), online, target, monte_carlo=False, **CLOSED)
    # The gripper's target Q are .5 x .75 and .7 x .25; the next x's .6 x .2, .1 x .5 and .3 x .3.
    x_target, gripper_target = 0.375, 0.1 + 0.5 * 0.12
    value_loss = (0.5 * (0.5 - x_target) ** 2 + 0.5 * (0.4 - gripper_target) ** 2) / 2
    cross_entropy = -(np.log(0.5) + np.log(0.75)) / 2
    np.testing.assert_allclose(metrics["target"], (x_target + gripper_target) / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-5)
    np.testing.assert_allclose(value, value_loss + cross_entropy, rtol=1e-5)  # and no conservative term
    np.testing.assert_allclose(metrics["q_taken"], (0.5 * 0.5 + 0.4 * 0.75) / 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["q_other"], (0.2 * 0.2 + 0.1 * 0.3 + 0.3 * 0.25) / 3, rtol=1e-5)


def test_what_acts_and_what_is_reported_is_the_closed_form():
    config = by_hand.config_of(q_transformer, alpha=2.0, **CLOSED)
    outputs = by_hand.outputs(ONLINE, by_hand.policy(BEHAVIOUR, BEHAVIOUR))
    exists = by_hand.ACTION.bin_mask()
    found = q_transformer.scores(config, exists, outputs[:, 0])
    np.testing.assert_allclose(found, [[0.04, 0.25, 0.03], [0.3, 0.075, -np.inf]], rtol=1e-5)
    log_probabilities, q = q_transformer.candidates(config)(exists, outputs[:, 0])
    np.testing.assert_array_equal(q, found)
    np.testing.assert_allclose(np.exp(log_probabilities), [[0.2, 0.5, 0.3], [0.75, 0.25, 0.0]], rtol=1e-5)
    values = q_transformer.action_values(config, by_hand.ENSEMBLE, outputs, segment())
    np.testing.assert_allclose(values[0, 0], 0.3, rtol=1e-5)  # of the whole action: the gripper's, given x
    config.agent.support = 0.5  # as without: of x the two bins of at least .25, of the gripper the first
    found = q_transformer.scores(config, exists, outputs[:, 0])
    np.testing.assert_allclose(found, [[-np.inf, 0.25, 0.03], [0.3, -np.inf, -np.inf]], rtol=1e-5)


def test_the_least_closed_form_of_two_networks_by_hand():
    """Each network is pooled by itself: x's values .2 .5 .1 and .3 .4 .6, one bin a kernel's width.

    Their heads are the same. Pooling the lesser values .2 .4 .1 would give less.
    """
    config = by_hand.config_of(q_transformer, acting_q="least", alpha=2.0, support_width=1 / 3, **CLOSED)
    other = by_hand.logits([[0.3, 0.4, 0.6], [0.4, 0.3, 0.9]])
    both = (by_hand.outputs(values, by_hand.policy(BEHAVIOUR)) for values in (ONLINE[:, :1], other))
    logits = jnp.concatenate([network[:, 0, 0] for network in both])
    found = q_transformer.scores(config, by_hand.ACTION.bin_mask()[0], logits)
    near, far = np.exp(-1), np.exp(-2)  # c is 1, so Q is the sum of k p y
    one = [0.04 + near * 0.25 + far * 0.03, 0.25 + near * 0.07, 0.03 + near * 0.25 + far * 0.04]
    other = [0.06 + near * 0.2 + far * 0.18, 0.2 + near * 0.24, 0.18 + near * 0.2 + far * 0.06]
    np.testing.assert_allclose(found, np.minimum(one, other), rtol=1e-5)


@pytest.mark.parametrize("value_loss", ["squared", "logistic"])
def test_training_the_term_ends_where_the_closed_form_is(value_loss):
    """Ten one-step episodes: x 0 taken once for .9, x 1 six times for .3, x 2 three times for .6."""
    tokens = np.repeat([0, 1, 2], [1, 6, 3])
    rewards = np.asarray([0.9, 0.3, 0.6], np.float32)[tokens]
    one = segment(bins=(3, 0))
    batch = jax.tree.map(lambda x: jnp.repeat(x, 10, axis=0), one)
    batch = dataclasses.replace(
        batch,
        tokens=batch.tokens.at[:, 0, 0].set(tokens),
        reward=batch.reward.at[:, 0].set(rewards),
        mc_return=batch.mc_return.at[:, 0].set(rewards),
    )
    network = types.SimpleNamespace(
        interface=by_hand.INTERFACE,
        score=lambda params, segment, key=None: jnp.broadcast_to(params, (10, 2, 2, 3, params.shape[-1])),
    )
    ensemble = types.SimpleNamespace(
        interface=by_hand.INTERFACE, score=lambda params, segment: network.score(params, segment)[None]
    )

    def trained(**settings):
        config = by_hand.config_of(q_transformer, value_loss=value_loss, **settings)
        params = jnp.zeros((2, 3, q_transformer.outputs(config)))

        def loss(params):
            targets = q_transformer.targets(config, ensemble, params, batch)
            return losses.mean(q_transformer.loss(config, network, params, targets, batch, None)["loss"])

        def step(carry, _):
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        optimiser = optax.adam(optax.cosine_decay_schedule(0.1, 1000))
        start = params, optimiser.init(params)
        (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=1000))(start)
        return q_transformer.scores(config, jnp.ones(3, bool), params[:1])

    expected = [0.09 / 0.55, 0.18 / 0.8, 0.18 / 0.65]  # c = 1/2
    np.testing.assert_allclose(trained(), expected, rtol=1e-3)
    np.testing.assert_allclose(trained(**CLOSED), expected, rtol=1e-3)


def test_actions_are_of_supported_bins():
    config = by_hand.config_of(q_transformer, behaviour_weight=1.0, support=0.5)
    bins = by_hand.outputs(ONLINE, by_hand.policy(BEHAVIOUR, BEHAVIOUR))[:, 0]
    exists = by_hand.ACTION.bin_mask()
    np.testing.assert_allclose(
        q_transformer.scores(config, exists[0], bins[:, 0]), [-np.inf, 0.5, 0.1], rtol=1e-5
    )
    np.testing.assert_allclose(
        q_transformer.scores(config, exists[1], bins[:, 1]), [0.4, -np.inf, -np.inf], rtol=1e-5
    )


def test_histograms_by_hand():
    """Every output flat, so that Q is .5, but of the x taken."""
    flat, settings = jnp.zeros((1, 2, 2, 3, 8)), {"value_loss": "histogram", "value_cells": 8}
    online = flat.at[0, 0, 0, 1].set(np.log(by_hand.CELLS))
    value, metrics = loss(segment(), online, flat, **settings)
    # x: the gripper's best Q; gripper: the reward
    expected_value = (by_hand.divergence(0.5, by_hand.CELLS) + by_hand.divergence(0.3, np.full(8, 1 / 8))) / 2
    np.testing.assert_allclose(metrics["value_loss"], expected_value, rtol=1e-4)
    np.testing.assert_allclose(metrics["q_taken"], (by_hand.mean_of(by_hand.CELLS) + 0.5) / 2, rtol=1e-5)
    pulled = (0.5 * (0.5**2 + 0.5**2) / 2 + 0.5 * 0.5**2 / 2) / 2
    np.testing.assert_allclose(value, expected_value + 2.0 * pulled, rtol=1e-4)


def test_a_dim_of_two_bins_has_no_edges():
    """X is greedy in its middle or last bin; the gripper, in its first, counts where it has three bins."""

    def edges(batch, q):
        return float(loss(batch, by_hand.logits(q, q))[1]["greedy_at_edge"])

    x_middle, x_last = [[0.2, 0.5, 0.1], [0.4, 0.3, 0.1]], [[0.2, 0.5, 0.9], [0.4, 0.3, 0.1]]
    assert (edges(segment(), x_middle), edges(segment(), x_last)) == (0.0, 1.0)
    assert edges(segment(bins=(3, 3)), x_middle) == 0.5
    assert edges(segment(bins=(0, 2)), x_last) == edges(segment(bins=(2, 2)), x_middle) == 0.0


def test_a_decision_of_twice_the_reference_is_discounted_twice():
    batch = segment([0.1, 0.3], terminal=False)
    slow = dataclasses.replace(batch, dt=2 * batch.dt)
    records = by_hand.logits(by_hand.Q, by_hand.Q, by_hand.Q), by_hand.logits(*[by_hand.Q_TARGET] * 3)
    _, metrics = loss(slow, *records, monte_carlo=False)
    # x: the gripper's best Q, .7; gripper: the reward and the next x's best Q, .6.
    np.testing.assert_allclose(
        metrics["target"], (0.7 + (0.1 + 0.25 * 0.6) + 0.7 + (0.3 + 0.25 * 0.6)) / 4, rtol=1e-5
    )


def test_an_absent_dim_leaves_the_chain_and_both_means():
    value, _ = loss(segment(bins=(3, 0)))
    np.testing.assert_allclose(value, 0.5 * (0.5 - 0.3) ** 2 + 2.0 * 0.5 * (0.2**2 + 0.1**2) / 2, rtol=1e-5)


def test_the_monte_carlo_return_lifts_every_dim_and_the_reward_counts():
    _, metrics = loss(segment([0.9]))
    np.testing.assert_allclose(metrics["target"], 0.9, rtol=1e-5)
    np.testing.assert_allclose(metrics["mc_clamp_share"], 0.5)
    _, without = loss(segment([0.9]), monte_carlo=False)
    np.testing.assert_allclose(without["target"], (0.7 + 0.9) / 2, rtol=1e-5)


def test_steps_that_are_not_trainable_change_nothing():
    np.testing.assert_array_equal(loss(segment())[0], loss(by_hand.with_other_last_record(segment()))[0])


@pytest.mark.parametrize("choice, gripper, next_x", [("least", 0.65, 0.3), ("mean", 0.675, 0.5)])
def test_targets_of_two_networks_by_hand(choice, gripper, next_x):
    """Of each bin first. The gripper's Q: (.5, .7) and (.8, .65). Of x: (.6, .1, .3) and (.2, .9, .4)."""
    settings = {"target_q": choice, "monte_carlo": False}
    _, metrics = loss(segment([0.1], terminal=False), target=TWO_TARGETS, **settings)
    np.testing.assert_allclose(metrics["target"], (gripper + 0.1 + 0.5 * next_x) / 2, rtol=1e-5)


@pytest.mark.parametrize("choice, x", [("least", [0.2, 0.1, 0.3]), ("mean", [0.4, 0.5, 0.35])])
def test_actions_of_two_networks_by_hand(choice, x):
    config, bin_mask = by_hand.config_of(q_transformer, acting_q=choice), by_hand.ACTION.bin_mask()
    both = jnp.concatenate(TWO_TARGETS)[:, 0]
    np.testing.assert_allclose(q_transformer.scores(config, bin_mask[0], both[:, 0]), x, rtol=1e-5)
    values = q_transformer.action_values(config, by_hand.ENSEMBLE, TWO_TARGETS, segment())
    np.testing.assert_allclose(values[0, 0], {"least": 0.5, "mean": 0.65}[choice], rtol=1e-5)  # .5 and .8


def test_the_behaviour_of_two_networks_is_their_mean_probability():
    """Of x (.2, .5, .3) and (.1, .2, .7): (.15, .35, .5), of which .6 of the greatest leaves two bins."""
    config = by_hand.config_of(q_transformer, behaviour_weight=1.0, support=0.6)
    second = by_hand.policy([[0.1, 0.2, 0.7], [0.75, 0.25, 9.0]])
    both = [by_hand.outputs(TARGET[:, :1], by_hand.policy(BEHAVIOUR)), by_hand.outputs(TARGET[:, :1], second)]
    logits, exists = jnp.concatenate(both)[:, 0], by_hand.ACTION.bin_mask()
    found = q_transformer.scores(config, exists[0], logits[:, 0])
    np.testing.assert_allclose(found, [-np.inf, 0.1, 0.3], rtol=1e-5)
    log_probabilities, q = q_transformer.candidates(config)(exists[0], logits[:, 0])
    np.testing.assert_allclose(np.exp(log_probabilities), [0.15, 0.35, 0.5], rtol=1e-5)
    np.testing.assert_allclose(q, found)


@pytest.mark.parametrize("name", ["value_loss", "backup", "conservatism"])
def test_an_unknown_choice_is_not_taken_for_another(name):
    with pytest.raises(UserError, match=rf"config.agent.{name} is 'huber'; expected one of \('\w+', "):
        jax.eval_shape(lambda: loss(segment(), **{name: "huber"}))


def test_no_gradient_reaches_the_target_network():
    gradients = jax.grad(lambda target: by_hand.sums(q_transformer, ONLINE, target, segment())["loss"][0])(
        TWO_TARGETS
    )
    assert not any(gradient.any() for gradient in gradients)
