"""The order of draws: exact shares, every episode once an epoch, any position and rows on their own."""

import collections

import numpy as np
import pytest

from qt_jax.data.order import Group, Order, Reader, permuted

ROWS = 8


def make_order(weights=(0.5, 0.3, 0.2), sizes=(40, 9, 3), block=2, seed=0):
    rng = np.random.default_rng(5)
    groups = [
        Group(number, np.arange(size) + 100 * number, rng.integers(1, 6, size), weight)
        for number, (weight, size) in enumerate(zip(weights, sizes))
    ]
    return Order(tuple(groups), ROWS, block, seed)


def draws(order, batches, rows=range(ROWS)):
    reader = Reader(order, np.asarray(rows))
    return [reader.batch(number) for number in batches]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 1025])
def test_permutations_hold_everything_once(count):
    keys = [np.full(count, key, np.uint64) for key in (1, 2**63, 77)]
    seen = [tuple(permuted(np.arange(count), key, count)) for key in keys]
    assert all(sorted(p) == list(range(count)) for p in seen)
    assert count < 4 or len(set(seen)) == 3


def test_every_batch_holds_each_share_to_within_one_row():
    for batch in draws(make_order(), range(200)):
        counts = np.bincount([draw.group for draw in batch], minlength=3)
        assert (np.abs(counts - np.asarray([0.5, 0.3, 0.2]) * ROWS) <= 1).all()


def test_in_the_long_run_every_row_draws_by_weight():
    order = make_order()
    for row in range(ROWS):
        shares = np.bincount(order.group_of(np.arange(5000), row), minlength=3) / 5000
        np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.002)


def test_every_episode_of_an_epoch_is_drawn_once_with_all_its_segments():
    """The first readings of a group number its episodes; each reading gives every cut once."""
    order = make_order()
    seen = collections.defaultdict(list)
    for batch in draws(order, range(600)):
        for draw in batch:
            seen[draw.group, draw.number].append((draw.episode, draw.cut))
    for group in range(3):
        size = len(order.groups[group].episodes)
        readings = {number: cuts for (g, number), cuts in seen.items() if g == group}
        episodes = [readings[number][0][0] for number in range(size)]
        assert sorted(episodes) == sorted(order.groups[group].episodes)
        assert [readings[number][0][0] for number in range(size, 2 * size)] != episodes or size < 4
        for number in range(size):
            assert len({episode for episode, _ in readings[number]}) == 1
            entry = list(order.groups[group].episodes).index(readings[number][0][0])
            assert sorted(cut for _, cut in readings[number]) == list(range(order.groups[group].cuts[entry]))


def test_any_position_and_any_rows_are_read_on_their_own():
    order = make_order()
    whole = draws(order, range(700))
    for start in (1, 63, 64, 65, 130, 500, 699):
        assert draws(order, [start], rows=[6, 7, 0])[0] == [whole[start][row] for row in (6, 7, 0)]
    reader = Reader(order, np.arange(ROWS))
    for number in (300, 20, 21, 640):
        assert reader.batch(number) == whole[number]


def test_segments_of_several_episodes_are_shuffled_together():
    lane = [batch[0] for batch in draws(make_order(weights=(1.0,), sizes=(40,), block=4), range(60))]
    numbers = [draw.number for draw in lane]
    assert numbers != sorted(numbers)
    assert {draw.number // (4 * ROWS) for draw in lane[:4]} == {0}, "a block is finished before the next"


def test_another_seed_another_order():
    assert draws(make_order(seed=1), range(5)) != draws(make_order(seed=2), range(5))
