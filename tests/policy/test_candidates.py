"""Which actions of somebody else a policy takes, and what its ranking says of them."""

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy import candidates
from qt_jax.policy.candidates import Ranking
from qt_jax.specs import PolicySpec, to_json
from tests.policy.table_policy import TablePolicy

IMAGES, STATE = {"front": np.zeros((1, 16, 16, 3), np.uint8)}, np.zeros((1, 4), np.float32)
SEEN = np.zeros(1, int), IMAGES, STATE, np.zeros((1, 12), np.float32), np.ones(1, bool)


class Judge(TablePolicy):
    """Of a bin b of dim i of the robot Q is table[i][b], and its log-probability the log of a half of it."""

    def _judge(self, episode, *inputs):
        tokens = inputs[-1]
        q = self._scores[np.arange(tokens.shape[1]), tokens]
        return q, np.log(q / 2) if self.spec.support_name == "log-probability" else q


def judge(most=3, **settings):
    return Judge(candidates=most, **settings)


def test_few_numbers_of_candidates_are_compiled():
    assert [candidates.sizes(most) for most in (0, 1, 4, 5, 64)] == [(), (1,), (4,), (4, 5), (4, 16, 64)]


def test_of_a_candidate_the_first_actions_are_read_and_the_rest_is_not():
    """A chunk of two actions of three dims of two bins: bin 0 is below 0."""
    policy = judge(chunk=2, execute=1)
    proposed = np.float32([[[-0.5, 0.5, 0.5], [1.0, -1.0, 0.1], [7.0, np.nan, 0.0]]])
    np.testing.assert_array_equal(candidates.tokens(policy.spec, proposed), [[0, 1, 1, 1, 0, 1]])
    np.testing.assert_array_equal(candidates.tokens(policy.spec, np.ones((1, 2, 3), int)), [[1] * 6])


@pytest.mark.parametrize(
    "proposed, message",
    [
        (np.zeros((4, 2, 3)), r"shape \[4, 2, 3\]; give \[K, H, 3\], K from 1 to 3, H from 2 to 256"),
        (np.zeros((0, 2, 3)), r"shape \[0, 2, 3\]"),
        (np.zeros((1, 1, 3)), r"shape \[1, 1, 3\]; .* H from 2"),
        (np.zeros((1, 257, 3)), r"shape \[1, 257, 3\]"),
        (np.zeros((1, 2, 4)), r"shape \[1, 2, 4\]; give \[K, H, 3\]"),
        (np.zeros((2, 3)), r"shape \[2, 3\]"),
        (np.zeros((1, 2, 3), bool), "of type bool; give an array of numbers"),
        ([[[0.0]]], "of type list; give an array"),
        (
            np.float32([[[0, 0, 0]] * 2, [[0, 0, 0], [0, 1.25, 0]]]),
            r"Candidate 1 has y\+1 = 1.25; .* \[-1, 1\]",
        ),
        (np.float32([[[0, 0, np.nan]] * 2]), "Candidate 0 has g = nan; give a number in"),
        (np.float32([[[-np.inf, 0, 0]] * 2]), "Candidate 0 has x = -inf"),
    ],
)
def test_what_cannot_be_ranked_is_one_line(proposed, message):
    with pytest.raises(UserError, match=message) as caught:
        judge(chunk=2).rank(*SEEN, proposed)
    assert "\n" not in str(caught.value)


def test_a_policy_that_was_not_asked_to_ranks_none():
    with pytest.raises(UserError, match="ranks no candidates; export with --candidates=16"):
        TablePolicy().rank(*SEEN, np.zeros((1, 1, 3)))


@pytest.mark.parametrize("dims", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("score_name", ["Q", "log-probability"])
def test_q_is_of_the_dim_decided_last_and_support_of_all(dims, score_name):
    """Whatever the robot's own order of x, y and g is; of y the bins have .5 and 0."""
    policy = judge(dims=dims, score_name=score_name, scores=((0.25, 0.75), (0.5, 0.2), (0.125, 0.875)))
    proposed = np.float32([[[-0.5, 0.5, 0.5]], [[0.5, -0.5, -0.5]]])[..., list(dims)]
    q, support = policy.rank(*SEEN, proposed)
    np.testing.assert_allclose(q, [0.875, 0.125])
    products = 0.25 * 0.2 * 0.875 / 8, 0.75 * 0.5 * 0.125 / 8
    np.testing.assert_allclose(support, (0.2, 0.125) if score_name == "Q" else np.log(products), rtol=1e-6)


def test_what_the_policy_leaves_out_is_worth_nothing_and_of_equals_the_first_comes_first():
    policy = judge(scores=((0.25, -np.inf), (0.5, 0.5), (0.125, 0.875)))
    q, support = policy.rank(*SEEN, np.float32([[[0.5, 0.5, 0.5]], [[-0.5, 0.5, 0.5]], [[-0.5, -0.5, 0.5]]]))
    np.testing.assert_array_equal(q, np.float32([-np.inf, 0.875, 0.875]))
    assert Ranking(q, support, 0).order.tolist() == [1, 2, 0]


@pytest.mark.parametrize("most", [-1, 1.5])
def test_a_limit_is_a_whole_number(most):
    with pytest.raises(UserError, match=f"candidates is {most}; give 0 or more"):
        PolicySpec.from_json(to_json(TablePolicy().spec) | {"candidates": most})
