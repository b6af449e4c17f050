"""Bounds that a few values make."""

import numpy as np
import pytest

from qt_jax.statistics import outlying


def found(values):
    return [(one.dim, one.bound) for one in outlying(values, values.min(axis=0), values.max(axis=0))]


def small(count=120):
    return np.random.default_rng(0).uniform(-0.01, 0.01, (count, 2))


@pytest.mark.parametrize("count", [11, 120, 20_000])
@pytest.mark.parametrize("value", [1000.0, -1000.0, 0.5])
def test_one_value_far_from_all_others(count, value):
    values = small(count)
    assert not found(values)
    values[7, 1] = value
    assert found(values) == [(1, value)]


def test_each_side_and_several_values():
    values = small()
    values[[3, 50], 0] = 1000, 999
    values[60, 0] = -40
    assert found(values) == [(0, -40), (0, 1000)]
    (low, _) = outlying(values, values.min(axis=0), values.max(axis=0))
    assert -0.01 <= low.rest[0] < low.rest[1] <= 0.01


def test_a_sample_that_missed_the_value():
    assert [one.dim for one in outlying(small(), np.float32([-0.01, -0.01]), np.float32([0.01, 7.0]))] == [1]


def test_what_is_no_mistake():
    rng = np.random.default_rng(1)
    heavy = rng.standard_t(3, 5000)  # the greatest of many is far out by nature
    rare = (np.arange(5000) == 4000).astype(float)  # an end-of-episode flag
    assert not found(np.stack([heavy, rare, np.ones(5000)], axis=1))
    assert not outlying(np.zeros((2, 1)), np.zeros(1), np.ones(1))
