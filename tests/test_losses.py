"""Against numbers worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax import losses

F, T = False, True


def array(*values):
    return jnp.asarray(values, jnp.float32)


def flags(*values):
    return jnp.asarray(values, bool)


def test_one_step_target_bootstraps_from_the_next_state_value():
    targets = losses.n_step_targets(
        array(0, 0, 0), array(0.5, 0.5, 0.5), array(0.1, 0.4, 0.8), flags(F, F, F), flags(F, F, F), 1
    )
    np.testing.assert_allclose(targets[:2], [0.5 * 0.4, 0.5 * 0.8])


def test_terminal_step_ignores_the_next_observation_and_truncated_step_uses_it():
    reward, discount, last = array(0, 1, 0), array(0.5, 0.5, 0.5), flags(F, F, T)
    for value in (0.0, 0.9):
        terminal = losses.n_step_targets(reward, discount, array(0.2, 0.3, value), last, flags(F, F, T), 1)
        np.testing.assert_allclose(terminal[:2], [0.5 * 0.3, 1.0])
        truncated = losses.n_step_targets(reward, discount, array(0.2, 0.3, value), last, flags(F, F, F), 1)
        np.testing.assert_allclose(truncated[:2], [0.5 * 0.3, 1.0 + 0.5 * value])


@pytest.mark.parametrize("terminal", [T, F])
def test_n_step_sum_and_bootstrap_stop_at_the_end(terminal):
    reward, discount, value = array(1, 2, 4, 0, 0), jnp.full(5, 0.5), array(9, 9, 9, 8, 7)
    last, is_terminal = flags(F, F, F, T, F), flags(F, F, F, terminal, F)
    end = 0.0 if terminal else 8.0
    two = losses.n_step_targets(reward, discount, value, last, is_terminal, 2)
    np.testing.assert_allclose(two[:3], [1 + 0.5 * 2 + 0.25 * 9, 2 + 0.5 * 4 + 0.25 * end, 4 + 0.5 * end])
    ten = losses.n_step_targets(reward, discount, value, last, is_terminal, 10)
    np.testing.assert_allclose(
        ten[:3], [1 + 0.5 * 2 + 0.25 * 4 + 0.125 * end, 2 + 0.5 * 4 + 0.25 * end, 4 + 0.5 * end]
    )


def test_n_step_uses_each_steps_own_discount():
    targets = losses.n_step_targets(
        array(1, 1, 0), array(0.5, 0.25, 0.1), array(0, 0, 8), flags(F, F, F), flags(F, F, F), 2
    )
    np.testing.assert_allclose(targets[0], 1 + 0.5 * (1 + 0.25 * 8))


def test_chain_takes_the_next_dims_maximum_and_skip_the_last_target():
    maxima, last, present = array([0.1, 0.2, 0.3]), array(0.7), flags([T, T, T])
    np.testing.assert_allclose(
        losses.autoregressive_targets(maxima, last, present, "chain"), [[0.2, 0.3, 0.7]], rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.autoregressive_targets(maxima, last, present, "skip_first_dim"), [[0.7, 0.7, 0.7]], rtol=1e-6
    )


def test_chain_skips_absent_dims():
    maxima, last = array([0.1, 0.2, 0.3]), array(0.7)
    middle = losses.autoregressive_targets(maxima, last, flags([T, F, T]), "chain")
    np.testing.assert_allclose(middle[0, jnp.asarray([0, 2])], [0.3, 0.7], rtol=1e-6)
    end = losses.autoregressive_targets(maxima, last, flags([T, T, F]), "chain")
    np.testing.assert_allclose(end[0, :2], [0.2, 0.7], rtol=1e-6)
    np.testing.assert_allclose(losses.state_value(maxima, flags([F, T, T])), [0.2], rtol=1e-6)


def test_absent_bins_are_out_of_the_maximum():
    q = array([0.1, 0.9], [0.3, 0.2])
    np.testing.assert_allclose(losses.masked_max(q, flags([T, F], [T, T])), [0.1, 0.3])


def full_targets(q, mc=(0, 0), monte_carlo=True, reward=(0, 0)):
    maxima = losses.masked_max(q, flags([T, T], [T, T]))
    return losses.autoregressive_td_targets(
        maxima, maxima[:, 0], array(*reward), array(0.5, 0.5), array(*mc),
        flags(F, F), flags(F, F), flags([T, T], [T, T]),
        n=1, backup="chain", monte_carlo=monte_carlo,
    )[0]  # fmt: skip


def test_targets_of_a_segment():
    q = array([[0.1, 0.2], [0.5, 0.3]], [[0.6, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(full_targets(q)[0], [0.5, 0.5 * 0.6], rtol=1e-6)
    np.testing.assert_allclose(full_targets(q, mc=(0.4, 0))[0], [0.5, 0.4], rtol=1e-6)
    np.testing.assert_allclose(full_targets(q, mc=(0.4, 0), monte_carlo=False)[0], [0.5, 0.3], rtol=1e-6)
    np.testing.assert_allclose(full_targets(q, reward=(0.25, 0))[0], [0.5, 0.55], rtol=1e-6)


@pytest.mark.parametrize("terminal", [T, F])
def test_targets_of_given_dim_values(terminal):
    """Such as means under a policy: chained over the dims; the first present dim's is the state's value."""

    def found(present, **settings):
        values = array([0.1, 0.2], [0.3, 0.4], [0.9, 0.8])
        state_values = losses.state_value(values, flags(*[present] * 3))
        return losses.autoregressive_td_targets(
            values, state_values, array(0.25, 0.125, 0), array(0.5, 0.5, 0.5),
            array(0.3, 0.1, 0), flags(F, F, T), flags(F, F, terminal), flags(*[present] * 3),
            **{"n": 1, "backup": "chain", "monte_carlo": False} | settings,
        )  # fmt: skip

    end = 0.125 if terminal else 0.125 + 0.5 * 0.9
    targets, backups = found([T, T])
    np.testing.assert_allclose(targets[:2], [[0.2, 0.25 + 0.5 * 0.3], [0.4, end]], rtol=1e-6)
    np.testing.assert_array_equal(targets, backups)
    np.testing.assert_allclose(found([T, T], n=2)[0][0], [0.2, 0.25 + 0.5 * end], rtol=1e-6)
    np.testing.assert_allclose(found([F, T])[0][0, 1], 0.25 + 0.5 * 0.4, rtol=1e-6)
    lifted, backups = found([T, T], monte_carlo=True)
    np.testing.assert_allclose(lifted[0], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(backups[0], [0.2, 0.4], rtol=1e-6)


def test_targets_carry_no_gradient():
    gradient = jax.grad(lambda q: full_targets(q).sum())(jnp.full((2, 2, 2), 0.3))
    assert not np.any(gradient)


def conservative_fixed_point(p: float, target: float, q_min: float, alpha: float, max_bins: int) -> float:
    """Returns where Eq. 2 settles for a bin taken with probability p.

    It is (p y + beta q_min) / (p + beta), beta = alpha (1 - p) / (N_max - 1).
    """
    beta = alpha * (1.0 - p) / (max_bins - 1)
    return (p * target + beta * q_min) / (p + beta)


def pulled(q, taken, mask, q_min=0.0):
    return losses.conservative_penalty(
        q, losses.squared_value_loss(q, q_min, 0.0, 1.0), jax.nn.one_hot(taken, len(q)), mask, "q_min", 1.0
    )


def test_conservative_variants():
    q, mask = array(0.5, 0.2, 0.4, 0.9), flags(T, T, T, F)
    from_least = losses.squared_value_loss(q, 0.1, 0.0, 1.0)

    def penalty(variant, temperature=1.0):
        return losses.conservative_penalty(
            q, from_least, array(1.0, 0.0, 0.0, 0.0), mask, variant, temperature
        )

    np.testing.assert_allclose(penalty("q_min"), 0.5 * (0.1**2 + 0.3**2) / 3, rtol=1e-6)
    np.testing.assert_allclose(penalty("softmax"), np.log(np.exp([0.5, 0.2, 0.4]).sum()) - 0.5, rtol=1e-6)
    np.testing.assert_allclose(
        penalty("softmax", 0.1), 0.1 * np.log(np.exp([5.0, 2.0, 4.0]).sum()) - 0.5, rtol=1e-5
    )
    assert penalty("none") == 0


def test_two_bins_divide_by_the_largest_number_of_bins():
    q = jnp.zeros(256).at[1].set(0.6)
    mask = jnp.arange(256) < 2
    np.testing.assert_allclose(pulled(q, 0, mask), 0.5 * 0.36 / 255, rtol=1e-6)


def test_closed_form_fixed_point_of_equation_2():
    """Gradient descent on the expected loss of a bin taken with probability p ends at the closed form."""
    bins, p, target, alpha = 5, 0.2, 0.8, 1.5
    probabilities = jnp.asarray([p] + [(1 - p) / (bins - 1)] * (bins - 1))

    def expected_loss(q):
        def per_taken(a):
            of_taken = losses.squared_value_loss(q[a], target, 0.0, 1.0)
            return of_taken + alpha * pulled(q, a, jnp.ones(bins, bool))

        return jnp.sum(probabilities * jax.vmap(per_taken)(jnp.arange(bins)))

    q = jax.lax.fori_loop(0, 3000, lambda _, q: q - 0.5 * jax.grad(expected_loss)(q), jnp.full(bins, 0.5))
    np.testing.assert_allclose(q[0], conservative_fixed_point(p, target, 0.0, alpha, bins), rtol=1e-4)
    np.testing.assert_allclose(conservative_fixed_point(0.1, 1.0, 0.0, 1.0, 64), 0.875, atol=1e-3)


def test_cross_entropy_by_hand_and_its_gradient():
    """Q = 1/2 against a target three quarters up the range.

    The gradient is the error itself, wherever the sigmoid is.
    """

    def loss(logit):
        return losses.logistic_value_loss(logit, 0.5, -1.0, 1.0)

    np.testing.assert_allclose(loss(jnp.asarray(0.0)), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(-20.0)), -0.75, rtol=1e-5)


def test_cross_entropy_has_the_fixed_point_of_equation_2():
    p, target, alpha, bins = 0.2, 0.8, 1.5, 5
    pull = alpha * (1 - p) / (bins - 1)

    def expected(x):
        return p * losses.logistic_value_loss(x, target, 0.0, 1.0) + pull * losses.logistic_value_loss(
            x, 0.0, 0.0, 1.0
        )

    x = jax.lax.fori_loop(0, 2000, lambda _, x: x - jax.grad(expected)(x), jnp.asarray(0.0))
    np.testing.assert_allclose(
        jax.nn.sigmoid(x), conservative_fixed_point(p, target, 0.0, alpha, bins), rtol=1e-4
    )


@pytest.mark.parametrize("outside, end", [(1.4, 1.0), (-2.0, -1.0)])
def test_cross_entropy_takes_a_target_beyond_the_value_range_for_its_end(outside, end):
    """Else it falls without end as the logit runs away."""

    def loss(logit, target):
        return losses.logistic_value_loss(jnp.asarray(logit), target, -1.0, 1.0)

    for logit in (-30.0, 0.0, 30.0):
        np.testing.assert_array_equal(loss(logit, outside), loss(logit, end))
        assert loss(logit, outside) >= 0


def test_sigmoid_values_stay_inside_the_value_range():
    np.testing.assert_allclose(
        losses.sigmoid_values(array(-50.0, 0.0, 50.0), -2.0, 1.0), [-2.0, -0.5, 1.0], atol=1e-5
    )


def test_taken_and_whole_action_values():
    np.testing.assert_allclose(losses.taken(array([1, 2, 3], [4, 5, 6]), jnp.asarray([2, 0])), [3, 4])
    of_dims, present = array([1, 2, 3], [4, 5, 6], [7, 8, 9]), flags([T, T, T], [F, T, F], [T, T, F])
    np.testing.assert_allclose(losses.of_whole_action(of_dims, present), [3, 5, 8])


def test_expectile_loss_weighs_the_two_sides():
    unit = functools.partial(losses.expectile_loss, q_min=0.0, q_max=1.0)
    np.testing.assert_allclose(unit(array(2, -2, 0), 0.7), [0.7 * 4, 0.3 * 4, 0], rtol=1e-6)
    np.testing.assert_allclose(unit(array(2, -2), 0.5), [2, 2])


def test_gradients_of_values_grow_with_the_value_range_and_not_with_its_square():
    def gradients(span):
        def cost(logit):
            q = losses.sigmoid_values(logit, -span, 0.0)
            squared = losses.squared_value_loss(q, -0.4 * span, -span, 0.0)
            return squared + losses.expectile_loss(-0.4 * span - q, 0.7, -span, 0.0)

        return jax.grad(cost)(0.3)

    np.testing.assert_allclose(gradients(100.0), 100 * gradients(1.0), rtol=1e-4)


def test_advantage_weights_are_clipped_and_carry_no_gradient():
    advantage = array(0.2, -0.1, 9)
    np.testing.assert_allclose(
        losses.advantage_weight(advantage, 0.1, 20.0), [np.exp(2), np.exp(-1), 20], rtol=1e-5
    )
    assert not jax.grad(lambda x: losses.advantage_weight(x, 0.1, 20.0).sum())(advantage).any()


def test_histogram_target_and_value():
    probabilities = losses.histogram_target(jnp.asarray(0.52), 51, 0.0, 1.0)
    np.testing.assert_allclose(probabilities.sum(), 1.0, rtol=1e-5)
    logits = jnp.log(probabilities + 1e-12)
    np.testing.assert_allclose(losses.histogram_values(logits, 0.0, 1.0), 0.52, atol=1e-3)
    np.testing.assert_allclose(
        losses.histogram_value_loss(logits, jnp.asarray(0.52), 0.0, 1.0), 0.0, atol=1e-5
    )
    assert losses.histogram_value_loss(logits, jnp.asarray(0.3), 0.0, 1.0) > 0.1


def test_a_perfect_histogram_keeps_its_target_through_a_long_chain():
    """Also at both ends; beyond them it holds the end, and stays finite."""

    def fitted(y):
        return losses.histogram_values(jnp.log(losses.histogram_target(y, 51, 0.0, 1.0) + 1e-12), 0.0, 1.0)

    for start, end in ((0.0, 0.0), (1.0, 1.0), (0.3, 0.3), (1.7, 1.0), (-2.0, 0.0)):
        y = jnp.asarray(start)
        for _ in range(20):
            y = fitted(y)
        np.testing.assert_allclose(y, end, atol=2e-3)


def test_means_are_a_global_sum_over_a_global_count():
    total = losses.masked_sum(array([1, 2], [4, 100]), flags([T, T], [T, F]))
    np.testing.assert_allclose(total, (7, 3))
    np.testing.assert_allclose(losses.mean(total), 7 / 3, rtol=1e-6)
    np.testing.assert_allclose(losses.masked_sum(array([1], [4]), flags([T, T], [T, F])), (6, 3))
    assert losses.mean(losses.masked_sum(array(5.0), flags(F))) == 0


def test_tabular_mdp_reaches_the_optimal_value_without_conservatism():
    """Three states in a row, two action dims of two bins: only (1, 1) moves on, the last move pays 1.

    Fitted from data that covers every action and mostly fails, alpha = 0, no MC bound.
    """
    discount, states = 0.9, 3
    actions = np.asarray([[i, j] for i in (0, 1) for j in (0, 1)])
    moves = (actions == 1).all(1)

    def backup(tables):
        first, second = tables  # Q(s, a1) [3, 2] and Q(s, a1, a2) [3, 2, 2]

        def transition(s, a, moved):
            nxt = jnp.where(moved, s + 1, s)
            done = moved & (s == states - 1)
            q = jnp.stack(
                [
                    jnp.stack([first[s], second[s, a[0]]]),
                    jnp.stack([first[jnp.minimum(nxt, 2)], jnp.zeros(2)]),
                ]
            )
            targets, _ = losses.autoregressive_td_targets(
                q.max(-1), q[:, 0].max(-1), jnp.stack([jnp.where(done, 1.0, 0.0), 0.0]),
                jnp.full(2, discount), jnp.zeros(2), jnp.stack([F, done]), jnp.stack([F, done]),
                jnp.ones((2, 2), bool),
                n=1, backup="chain", monte_carlo=False,
            )  # fmt: skip
            return targets[0]

        for s in range(states):
            for a, moved in zip(actions, moves):
                targets = transition(s, jnp.asarray(a), jnp.asarray(moved))
                first = first.at[s, a[0]].set(targets[0])
                second = second.at[s, a[0], a[1]].set(targets[1])
        return first, second

    tables = (jnp.zeros((states, 2)), jnp.zeros((states, 2, 2)))
    for _ in range(2 * states + 2):
        tables = backup(tables)
    optimal = discount ** np.arange(states - 1, -1, -1)
    np.testing.assert_allclose(tables[0][:, 1], optimal, rtol=1e-5)
    np.testing.assert_allclose(tables[1][:, 1, 1], optimal, rtol=1e-5)
    np.testing.assert_allclose(tables[1][:, 0, 0], discount * optimal, rtol=1e-5)
