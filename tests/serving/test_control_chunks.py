"""Chunks of actions as commands of a higher rate, one after the other and averaged."""

import numpy as np
import pytest

from qt_jax.safety import ABSOLUTE, DELTA, OTHER
from qt_jax.serving.chunks import Chunks, commands


def test_an_absolute_dim_goes_in_equal_steps_and_a_delta_is_spread():
    found = commands(np.float32([0, 9, 0]), np.float32([1, 0.4, 1]), (ABSOLUTE, DELTA, OTHER), 4, 4)
    np.testing.assert_allclose(found, [[0.25, 0.1, 1], [0.5, 0.1, 1], [0.75, 0.1, 1], [1, 0.1, 1]], atol=1e-7)
    rest = commands(np.float32([0, 9, 0]), np.float32([1, 0.4, 1]), (ABSOLUTE, DELTA, OTHER), 4, 2)
    np.testing.assert_allclose(rest, [[0.5, 0.1, 1], [1, 0.1, 1]], atol=1e-7)
    assert commands(np.float32([np.nan]), np.float32([1]), (ABSOLUTE,), 2, 2).tolist() == [[1], [1]]


def actions(*values) -> np.ndarray:
    return np.float32([[value, value] for value in values])


def taken(chunks: Chunks, ticks) -> list:
    return [None if (found := chunks.at(tick)) is None else float(found[0][0]) for tick in ticks]


def test_chunks_follow_one_another():
    chunks = Chunks(2, None, [True, True])
    chunks.add(seen=0, now=1, actions=actions(1, 2))
    chunks.add(seen=2, now=3, actions=actions(3, 4))  # while the first is executed
    assert taken(chunks, range(10)) == [None, 1, 1, 2, 2, 3, 3, 4, 4, None]
    chunks.add(seen=4, now=12, actions=actions(5))  # late
    assert taken(chunks, range(11, 15)) == [None, 5, 5, None]


def test_overlapping_chunks_are_averaged_with_act_s_weights():
    """The oldest weighs 1, the next exp(-m), the third exp(-2 m)."""
    chunks, m = Chunks(2, 0.5, [True, False]), 0.5
    chunks.add(0, 1, actions(0, 1, 2))
    chunks.add(2, 3, actions(10, 20, 30))
    chunks.add(4, 5, actions(100))
    (mean, newest), left = chunks.at(4)
    weights = np.exp(-m * np.arange(3))
    assert mean == pytest.approx((2 * weights[0] + 20 * weights[1] + 100 * weights[2]) / weights.sum())
    assert newest == 100 and left == 2
    assert chunks.at(7)[0][0] == 30 and chunks.at(7)[1] == 1 and chunks.at(8) is None
