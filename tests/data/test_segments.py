import dataclasses

import numpy as np
import pytest

from qt_jax.data import loader
from qt_jax.data.episodes import Episode, monte_carlo_returns
from qt_jax.data.segments import Cutting, SegmentSource
from qt_jax.errors import UserError
from qt_jax.preprocess import StateStatistics
from qt_jax.specs import DEMONSTRATION, ActionSpec

ACTION = ActionSpec(("x",), (-1.0,), (1.0,), (4,))


def make_episode(length: int, terminal: bool = True, dt: float = 1.0) -> Episode:
    rewards = np.zeros(length, np.float32)
    rewards[-1] = float(terminal)
    state = np.arange(length + 1, dtype=np.float32)[:, None]
    return Episode(f"e{length}", "t", "noise", "go", np.zeros(4, np.float32), {}, state, np.zeros((length, 1), np.float32),
                   rewards, terminal, terminal, dt)  # fmt: skip


def make_source(episodes, cutting, q_min=0.0):
    statistics = StateStatistics((0.0,), (1.0,))
    return SegmentSource(tuple(episodes), cutting, ACTION, statistics, discount=0.5, dt_ref=1.0, q_min=q_min)


@pytest.mark.parametrize("window, n_step", [(1, 1), (3, 1), (2, 4)])
def test_each_transition_is_trained_exactly_once(window, n_step):
    """For T = 1 .. 3S, the rewarded last step included; windows and bootstraps lie inside the cut."""
    cutting = Cutting(8, window, n_step)
    for length in range(1, 25):
        counts = np.zeros(length, int)
        for start in cutting.starts(length):
            trainable = cutting.trainable(start, length)
            for position in np.flatnonzero(trainable):
                step = start + position
                counts[step] += 1
                assert max(0, step - window + 1) >= start
                assert min(step + n_step, length) <= start + cutting.length - 1
        np.testing.assert_array_equal(counts, 1)


def test_too_short_segments_are_refused():
    with pytest.raises(UserError, match="segment_length is 3.*at least 4"):
        Cutting(3, 3, 1)


def test_monte_carlo_returns_over_the_whole_episode():
    np.testing.assert_allclose(monte_carlo_returns(make_episode(3), 0.5, 1.0, 0.0), [0.25, 0.5, 1.0])
    np.testing.assert_allclose(monte_carlo_returns(make_episode(2, dt=2.0), 0.5, 1.0, 0.0), [0.25, 1.0])


def test_monte_carlo_of_a_truncated_episode_is_a_lower_bound_with_q_min():
    np.testing.assert_allclose(monte_carlo_returns(make_episode(2, terminal=False), 0.5, 1.0, -4.0), [-1.0, -2.0])
    np.testing.assert_allclose(monte_carlo_returns(make_episode(2), 0.5, 1.0, -4.0), [0.5, 1.0])


def test_a_cut_holds_its_part_of_the_episode():
    source = make_source([make_episode(9)], Cutting(6, 2, 1))
    first, second = (source[i] for i in range(len(source)))
    np.testing.assert_array_equal(second["state"][:, 0], [4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(second["trainable"], [False, True, True, True, True, False])
    np.testing.assert_array_equal(second["is_terminal"], [False] * 5 + [True])
    np.testing.assert_array_equal(first["is_first"], [True] + [False] * 5)
    assert second["reward"][4] == 1.0 and second["mc_return"][3] == 0.5


def test_padding_is_not_valid():
    segment = make_source([make_episode(2)], Cutting(6, 2, 1))[0]
    np.testing.assert_array_equal(segment["valid"], [True, True, True, False, False, False])
    np.testing.assert_array_equal(segment["is_last"], [False, False, True, False, False, False])
    np.testing.assert_array_equal(segment["trainable"], [True, True, False, False, False, False])


def test_iterator_state_continues_bit_for_bit():
    source = make_source([make_episode(n) for n in range(3, 20)], Cutting(6, 2, 1))
    make = lambda: loader.training_iterator(source, batch_size=4, seed=1, read_threads=2)
    reference = make()
    for _ in range(25):
        state = reference.get_state()
        expected = next(reference)
        resumed = make()
        resumed.set_state(state)
        for key, value in next(resumed).items():
            if key != "images":
                np.testing.assert_array_equal(value, expected[key])


def test_an_epoch_holds_every_segment_once():
    source = make_source([make_episode(n) for n in range(3, 11)], Cutting(6, 2, 1))
    iterator = loader.training_iterator(source, batch_size=1, seed=1, read_threads=1)
    trained = sum(int(next(iterator)["trainable"].sum()) for _ in range(len(source)))
    assert trained == sum(range(3, 11))


def test_a_share_of_demonstrations_is_held_in_every_batch():
    demonstrations = [dataclasses.replace(make_episode(5), collector=DEMONSTRATION)] * 3
    autonomous = [make_episode(20, terminal=False) for _ in range(9)]
    source = make_source(demonstrations + autonomous, Cutting(6, 2, 1))
    make = lambda share: loader.training_iterator(source, batch_size=8, seed=0, read_threads=1, demonstration_share=share)
    iterator = make(0.5)
    for _ in range(10):
        assert next(iterator)["success"].mean() == 0.5  # only the demonstrations succeed here
    with pytest.raises(UserError, match="demonstration_share is 0.5 but 100%"):
        only = make_source(demonstrations * 3, Cutting(6, 2, 1))
        loader.training_iterator(only, batch_size=8, seed=0, read_threads=1, demonstration_share=0.5)


def test_validation_covers_every_transition_once():
    source = make_source([make_episode(n) for n in range(3, 11)], Cutting(6, 2, 1))
    batches = list(loader.validation_batches(source, batch_size=4))
    assert sum(int(b.trainable.sum()) for b in batches) == sum(range(3, 11))
    assert {b.tokens.shape[0] for b in batches} == {4}


def test_batch_larger_than_the_dataset_is_refused():
    with pytest.raises(UserError, match="batch_size is 64 but the dataset has 1 segments"):
        loader.training_iterator(make_source([make_episode(2)], Cutting(6, 2, 1)), batch_size=64, seed=0, read_threads=1)


def test_a_damaged_image_is_named():
    """Through the loader's threads, as training meets it."""
    episode = dataclasses.replace(make_episode(6), images={"front": [b"\xff\xd8\xff broken"] * 7})
    iterator = loader.training_iterator(make_source([episode], Cutting(4, 1, 1)), batch_size=1, seed=0, read_threads=2)
    with pytest.raises(UserError, match="Episode 'e6': an image 'front' of steps .* does not decode"):
        next(iterator)
