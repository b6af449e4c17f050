"""Supported bins, and Q in closed form, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from qt_jax import support


def test_pooling_weighs_neighbours_by_their_distance():
    probabilities, width = np.asarray([0.5, 0.1, 0.0, 0.4], np.float32), 0.25
    # Of 4 bins a bin is a quarter of the range: one bin further is one width further.
    kernel = np.exp(-np.abs(np.subtract.outer(range(4), range(4))))
    np.testing.assert_allclose(
        support.pooled(probabilities, np.asarray(4), width), kernel @ probabilities, rtol=1e-6
    )


def test_pooling_of_finer_bins_is_the_same_in_units_of_the_action():
    coarse, fine = np.zeros(8, np.float32), np.zeros(256, np.float32)
    coarse[2], fine[64:96] = 1.0, 1 / 32  # the same actions: between 2/8 and 3/8 of the range
    width = 1.0
    found = support.pooled(fine, np.asarray(256), width)
    middles = found.reshape(8, 32)[:, 15:17].mean(-1)
    np.testing.assert_allclose(middles, support.pooled(coarse, np.asarray(8), width), rtol=0.04)


def test_a_gripper_is_not_pooled():
    probabilities = np.asarray([[0.9, 0.1, 0.0, 0.0], [0.7, 0.2, 0.1, 0.0]], np.float32)
    bins = np.asarray([2, 3])
    found = np.asarray(support.pooled(probabilities, bins, 0.5))
    np.testing.assert_array_equal(found[0], probabilities[0])
    assert (found[1, :3] > probabilities[1, :3]).all()


@pytest.mark.parametrize(
    "share, width, expected",
    [
        (0.0, 0.0, [1, 1, 1, 1, 0]),  # every bin that exists
        (0.3, 0.0, [1, 0, 0, 1, 0]),  # .3 of .5 is .15
        (1.0, 0.0, [1, 0, 0, 0, 0]),
    ],
)
def test_share_of_the_most_probable(share, width, expected):
    probabilities = np.asarray([0.5, 0.04, 0.1, 0.36, 0.9], np.float32)  # the last does not exist
    exists = np.arange(5) < 4
    found = support.supported(probabilities, np.asarray(4), exists, share, width)
    np.testing.assert_array_equal(found, np.asarray(expected, bool))


def test_pooled_support_fills_gaps_between_taken_bins():
    probabilities = np.asarray([0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0], np.float32)
    exists, bins = np.ones(8, bool), np.asarray(8)
    plain = support.supported(probabilities, bins, exists, 0.3, 0.0)
    np.testing.assert_array_equal(np.flatnonzero(plain), [0, 2])
    # One bin is one width. Pooled: .568, .368, .568, .209 = .5/e + .5/e^3, .0768: the share of .3 is .170.
    wide = support.supported(probabilities, bins, exists, 0.3, 1 / 8)
    np.testing.assert_array_equal(np.flatnonzero(wide), [0, 1, 2, 3])


VALUES, SHARES = np.asarray([0.9, 0.3, 0.6], np.float32), np.asarray([0.1, 0.6, 0.3], np.float32)


@pytest.mark.parametrize(
    "width, q_min, expected",
    [
        # c = 1/2. p (y - q_min) over p + (1 - p) / 2: .09/.55, .18/.8 and .18/.65, from q_min.
        (0.0, 0.0, [0.09 / 0.55, 0.18 / 0.8, 0.18 / 0.65]),
        (0.0, -1.0, [-1 + 0.19 / 0.55, -1 + 0.78 / 0.8, -1 + 0.48 / 0.65]),
        # A width of one bin: neighbours count 1/e, the next 1/e^2. P: .361, .747, .534.
        (
            1 / 3,
            0.0,
            [(0.09 + 0.18 * 0.36788 + 0.18 * 0.13534) / (0.36133 + 0.5 * 0.63867),
             (0.18 + 0.27 * 0.36788) / (0.74715 + 0.5 * 0.25285),
             (0.18 + 0.18 * 0.36788 + 0.09 * 0.13534) / (0.53426 + 0.5 * 0.46574)],
        ),
    ],
)  # fmt: skip
def test_closed_form_by_hand(width, q_min, expected):
    found = support.closed_form(VALUES, SHARES, np.asarray(3), width, 1.0, q_min)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_closed_form_of_a_gripper_knows_no_neighbours():
    """Two bins of three, so that c is alpha / 2 all the same."""
    values, shares = np.asarray([0.9, 0.3, 0.7], np.float32), np.asarray([0.25, 0.75, 0.0], np.float32)
    found = support.closed_form(values, shares, np.asarray(2), 0.5, 2.0, 0.0)
    np.testing.assert_allclose(found, [0.9 * 0.25, 0.3 * 0.75, 0.0], rtol=1e-6)  # c = 1: p y
