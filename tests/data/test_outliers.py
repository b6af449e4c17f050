"""Steps kept of many, and the bounds that they show to be outliers."""

import numpy as np
import pytest

from qt_jax.data import outliers
from qt_jax.data.samples import Samples
from qt_jax.specs import ActionSpec
from qt_jax.statistics import Statistics

ACTION = ActionSpec(("x", "gripper"), (-0.01, 0.0), (1000.0, 1.0), (256, 2))


@pytest.mark.parametrize("lengths", [[1] * 50, [7, 3, 11, 2, 30], [64]])
def test_samples_are_at_even_distances_whatever_the_episodes(lengths):
    samples = Samples(quota=16)
    steps = iter(np.arange(sum(lengths), dtype=np.float32)[:, None])
    for length in lengths:
        samples.add(length, {"action": np.stack([next(steps) for _ in range(length)])})
    rows = samples.rows("action")[:, 0]
    np.testing.assert_array_equal(rows, np.arange(0, sum(lengths), samples.stride))
    assert len(rows) <= 16


def values(count=400):
    rng = np.random.default_rng(0)
    return np.stack([rng.uniform(-0.01, 0.01, count), rng.integers(0, 2, count)], axis=1).astype(np.float32)


def nowhere(dim, greatest):
    return 0.0, ""


def test_an_outlier_that_became_the_bound_is_reported_with_the_bins_that_are_left():
    (line,) = outliers.lines(ACTION, values(), lambda dim, greatest: (1000.0 if greatest else -0.01, ""))
    assert line.startswith("action 'x' has an outlier, 1000 (`validate` names its step): nearly all values")
    assert "1 of 256 bins" in line and "config.data.action_bounds=quantiles" in line
    low = ActionSpec(ACTION.names, (-1000.0, 0.0), (0.01, 1.0), ACTION.bins)
    (line,) = outliers.lines(low, values(), lambda dim, greatest: (0.01 if greatest else -1000.0, ""))
    assert line.startswith("action 'x' has an outlier, -1000 (`")


def test_an_outlier_is_named_with_its_place_first_where_a_value_is_one():
    extremes = outliers.Extremes(2)
    extremes.add(values(), "file, episode 0")
    (line,) = outliers.lines(ACTION, values(), extremes.of)
    assert line.startswith("action 'x' has the bound 1000, far from all values: nearly all values lie in [-0")
    extremes.add(np.float32([[0, 0], [999, 0]]), "file, episode 1")
    (line,) = outliers.lines(ACTION, values(), extremes.of)
    assert line.startswith("file, episode 1, step 1: action 'x' has an outlier, 999: nearly")


def test_bounds_that_the_data_fill_are_not_reported():
    filled = ActionSpec(ACTION.names, (-0.01, 0.0), (0.02, 1.0), ACTION.bins)
    assert outliers.lines(filled, values(), nowhere) == []


def test_a_step_that_is_not_finite_hides_no_outlier():
    rows = values()
    rows[3] = np.nan
    assert len(outliers.lines(ACTION, rows, nowhere)) == 1


def test_an_outlier_of_a_state_that_makes_all_others_one_number():
    rows = np.random.default_rng(0).uniform(-1, 1, (400, 2))

    def found(worst):
        return outliers.of_states(rows, stats(np.concatenate([rows, [[0, worst]]])))

    def stats(all_of):
        return Statistics(*map(tuple, (
            all_of.mean(0), all_of.std(0), *np.quantile(all_of, [0.01, 0.99], 0), all_of.min(0), all_of.max(0)
        )))  # fmt: skip

    (line,) = found(-1e6)
    assert line.startswith("state entry 1 has an outlier, -1e+06: its standard deviation is 4.99e+04, nearly")
    assert found(25.0) == found(0.5) == [], "the deviation is still that of nearly all values"
    assert outliers.of_states(np.zeros((400, 0)), Statistics(*[()] * 6)) == []


def test_the_extremes_are_found_with_their_place():
    extremes = outliers.Extremes(2)
    extremes.add(np.float32([[0, 1], [5, 2], [-1, 0]]), "file, episode 0")
    extremes.add(np.float32([[4, 3], [5, -7]]), "file, episode 1")
    assert [extremes.of(dim, side) for dim in (0, 1) for side in (False, True)] == [
        (-1, "file, episode 0, step 2"), (5, "file, episode 0, step 1"),
        (-7, "file, episode 1, step 1"), (3, "file, episode 1, step 0"),
    ]  # fmt: skip
