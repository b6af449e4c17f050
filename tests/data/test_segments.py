"""Where episodes are cut, which steps of a cut are trained, and the arrays of one cut."""

import dataclasses

import jax
import numpy as np
import pytest
import simplejpeg

from qt_jax.data import segments
from qt_jax.data.buffers import Buffers
from qt_jax.data.episodes import Episode, monte_carlo_returns, relabelled
from qt_jax.data.idle import Idle
from qt_jax.data.segments import Cutting, Layout
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, Interface, ObservationSpec
from tests.data.synthetic import unit_statistics

ACTION = ActionSpec(("x",), (-1.0,), (1.0,), (4,))


def make_episode(length: int, terminal: bool = True, dt: float = 1.0) -> Episode:
    rewards = np.zeros(length, np.float32)
    rewards[-1] = float(terminal)
    return Episode(
        episode_id=f"e{length}",
        task="t",
        collector="noise",
        instruction="go",
        embedding=np.zeros(4, np.float32),
        images={},
        state=np.arange(length + 1, dtype=np.float32)[:, None],
        actions=np.zeros((length, 1), np.float32),
        rewards=rewards,
        terminal=terminal,
        success=terminal,
        dt=dt,
    )


def cut(
    episode,
    number,
    cutting,
    network_action=ACTION,
    cameras=(),
    state_dim=1,
    time_limits="bootstrap",
    chunk=1,
    idle=None,
):
    joint = Interface(network_action, ObservationSpec(cameras, (8, 8), state_dim, ""), 4, chunk)
    layout = Layout(ACTION, joint, unit_statistics(1), cutting, 0.5, 1.0, (0.0, 1.0), time_limits, idle)
    rows = segments.Rows(layout, 1, Buffers())
    rows.fill(0, segments.prepare(episode, np.zeros(4, np.float32), layout), number, cutting)
    batch = rows.segment()
    return {f.name: jax.tree.map(lambda x: x[0], getattr(batch, f.name)) for f in dataclasses.fields(batch)}


@pytest.mark.parametrize("window, n_step, apart", [(1, 1, 1), (3, 1, 1), (2, 4, 1), (3, 2, 2), (2, 4, 3)])
def test_each_transition_is_trained_exactly_once(window, n_step, apart):
    """For T = 1 .. 3S, the rewarded last step included; windows and bootstraps lie inside the cut."""
    cutting = Cutting(8, window, n_step, apart)
    for length in range(1, 25):
        counts = np.zeros(length, int)
        for start in cutting.starts(length):
            trainable = cutting.trainable(start, length)
            for position in np.flatnonzero(trainable):
                step = start + position
                counts[step] += 1
                assert max(0, step - (window - 1) * apart) >= start
                assert min(step + n_step, length) <= start + cutting.length - 1
        np.testing.assert_array_equal(counts, 1)


def test_too_short_segments_are_refused():
    with pytest.raises(UserError, match="segment_length is 3.*at least 4"):
        Cutting(3, 3, 1)
    with pytest.raises(UserError, match="6; a window of 3 frames, 2 steps apart, and .* 2 .* at least 7"):
        Cutting(6, 3, 2, 2)


def test_monte_carlo_returns_over_the_whole_episode():
    np.testing.assert_allclose(monte_carlo_returns(make_episode(3), 0.5, 1.0, 0.0), [0.25, 0.5, 1.0])
    np.testing.assert_allclose(monte_carlo_returns(make_episode(2, dt=2.0), 0.5, 1.0, 0.0), [0.25, 1.0])


def test_a_time_limit_may_end_an_episode_for_good():
    cutting = Cutting(8, 1, 1)
    bootstrapped, ended = (
        cut(make_episode(3, terminal=False), 0, cutting, time_limits=limits)
        for limits in ("bootstrap", "terminal")
    )
    np.testing.assert_array_equal(bootstrapped.pop("is_terminal"), [False] * 8)
    np.testing.assert_array_equal(ended.pop("is_terminal"), [False] * 3 + [True] + [False] * 4)
    jax.tree.map(np.testing.assert_array_equal, bootstrapped, ended)


def test_idle_steps_are_not_trained_in_whichever_cut_they_lie():
    """Of 12 steps those in which x stands still; a cut of 8 records trains 7 steps."""
    episode, moving = make_episode(12), {0, 3, 4, 9}
    episode.actions[sorted(moving)] = 0.5
    for number in (0, 1):
        batch = cut(episode, number, Cutting(8, 1, 1), idle=Idle.read("delta:0.01"))
        trained = batch["step"][batch["trainable"]]
        np.testing.assert_array_equal(
            trained, [s for s in sorted(moving | {11}) if 7 * number <= s < 7 * number + 7]
        )


def test_an_unknown_meaning_of_time_limits_is_named():
    with pytest.raises(UserError, match=r"time_limits is 'end'; expected one of \('bootstrap', 'terminal'\)"):
        cut(make_episode(3), 0, Cutting(8, 1, 1), time_limits="end")


def test_monte_carlo_of_a_truncated_episode_is_a_lower_bound_with_q_min():
    truncated = make_episode(2, terminal=False)
    np.testing.assert_allclose(monte_carlo_returns(truncated, 0.5, 1.0, -4.0), [-1.0, -2.0])
    np.testing.assert_allclose(monte_carlo_returns(make_episode(2), 0.5, 1.0, -4.0), [0.5, 1.0])


def test_monte_carlo_of_a_truncated_episode_is_never_below_q_min():
    """Without a discount, penalties before the cut and q_min after it add up to less than is attainable."""
    rewards = np.float32([-0.1, -0.1, 0.9])
    cut_off = dataclasses.replace(make_episode(3, terminal=False), rewards=rewards)
    np.testing.assert_allclose(monte_carlo_returns(cut_off, 1.0, 1.0, -1.0), [-0.3, -0.2, -0.1], atol=1e-6)
    np.testing.assert_allclose(monte_carlo_returns(cut_off, 1.0, 1.0, -0.2), [0.5, 0.6, 0.7], atol=1e-6)
    failed = dataclasses.replace(cut_off, rewards=np.full(3, -0.1, np.float32))
    np.testing.assert_allclose(monte_carlo_returns(failed, 1.0, 1.0, -1.0), [-1.0] * 3)
    over = dataclasses.replace(failed, terminal=True)
    np.testing.assert_allclose(monte_carlo_returns(over, 1.0, 1.0, -1.0), [-0.3, -0.2, -0.1], atol=1e-6)


def test_a_cut_holds_its_part_of_the_episode():
    first, second = (cut(make_episode(9), number, Cutting(6, 2, 1)) for number in range(2))
    np.testing.assert_array_equal(second["state"][:, 0], [4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(second["step"], [4, 5, 6, 7, 8, 9])
    np.testing.assert_array_equal(second["trainable"], [False, True, True, True, True, False])
    np.testing.assert_array_equal(second["is_terminal"], [False] * 5 + [True])
    np.testing.assert_array_equal(first["is_first"], [True] + [False] * 5)
    assert second["reward"][4] == 1.0 and second["mc_return"][3] == 0.5


def test_the_return_of_an_episode_is_undiscounted_and_that_of_each_of_its_cuts():
    rewards = np.float32([0, 0, 0.25, 0, 0, 0, 0, -0.5, 0.5])
    paid = dataclasses.replace(make_episode(9), rewards=rewards)
    assert [cut(paid, number, Cutting(6, 2, 1))["episode_return"] for number in range(2)] == [0.25, 0.25]


def test_padding_is_not_valid():
    found = cut(make_episode(2), 0, Cutting(6, 2, 1))
    np.testing.assert_array_equal(found["valid"], [True, True, True, False, False, False])
    np.testing.assert_array_equal(found["is_last"], [False, False, True, False, False, False])
    np.testing.assert_array_equal(found["trainable"], [True, True, False, False, False, False])


def test_a_terminal_episode_without_its_last_observation_still_ends():
    """No frame stands there, but the flags do: the bootstrap is 0."""
    episode = make_episode(3)
    found = cut(dataclasses.replace(episode, state=episode.state[:3]), 0, Cutting(6, 1, 1))
    np.testing.assert_array_equal(found["valid"], [True, True, True, False, False, False])
    np.testing.assert_array_equal(found["is_terminal"], [False, False, False, True, False, False])
    np.testing.assert_array_equal(found["trainable"], [True, True, True, False, False, False])


def test_a_dataset_fills_its_dims_cameras_and_state_of_the_network():
    network = ActionSpec(("terminate", "x"), (0.0, -1.0), (1.0, 1.0), (2, 8))
    found = cut(make_episode(2), 0, Cutting(4, 1, 1), network, cameras=("wrist",), state_dim=3)
    np.testing.assert_array_equal(found["bins"], [0, 4])
    np.testing.assert_array_equal(found["action_mask"], [[False, True]] * 3 + [[False, False]])
    np.testing.assert_array_equal(found["tokens"], [[0, 2], [0, 2], [0, 0], [0, 0]])
    assert not found["camera_mask"]["wrist"] and not found["images"]["wrist"].any()
    assert found["state"].shape == (4, 3)


def test_a_step_has_the_actions_of_its_chunk_within_the_episode():
    """The three actions are bins 0, 1 and 3 of four. At o_T, where nothing was done, all are there."""
    episode = dataclasses.replace(make_episode(3), actions=np.float32([[-0.9], [-0.1], [0.6]]))
    found = cut(episode, 0, Cutting(6, 1, 3), chunk=3)
    np.testing.assert_array_equal(found["tokens"][:4], [[0, 1, 3], [1, 3, 0], [3, 0, 0], [0, 0, 0]])
    within = [[True, True, True], [True, True, False], [True, False, False], [True, True, True]]
    np.testing.assert_array_equal(found["action_mask"], within + [[False] * 3] * 2)
    np.testing.assert_array_equal(found["trainable"], [True] * 3 + [False] * 3)

    joint = ActionSpec(("terminate", "x"), (0.0, -1.0), (1.0, 1.0), (2, 8))
    found = cut(episode, 0, Cutting(4, 1, 2), joint, chunk=2)
    np.testing.assert_array_equal(found["bins"], [0, 4, 0, 4])
    np.testing.assert_array_equal(found["tokens"][:3], [[0, 0, 0, 1], [0, 1, 0, 3], [0, 3, 0, 0]])
    np.testing.assert_array_equal(found["action_mask"][2:], [[False, True, False, False], [False, True] * 2])


def test_images_are_brought_to_the_size_of_the_network():
    image = simplejpeg.encode_jpeg(np.full((16, 32, 3), 200, np.uint8))
    episode = dataclasses.replace(make_episode(2), images={"front": [image] * 3})
    found = cut(episode, 0, Cutting(4, 1, 1), cameras=("front",))
    assert found["images"]["front"].shape == (4, 8, 8, 3)
    np.testing.assert_allclose(found["images"]["front"][:3], 200, atol=2)
    assert not found["images"]["front"][3].any()


def test_hindsight_turns_a_success_into_a_truncated_failure():
    episode = relabelled(make_episode(3), "lift the ring", step_penalty=0.0)
    found = cut(episode, 0, Cutting(5, 1, 1))
    assert found["relabelled"] and not found["success"]
    assert not found["is_terminal"].any() and not found["reward"].any()
    assert not found["mc_return"].any() and episode.instruction == "lift the ring"
    np.testing.assert_array_equal(found["is_last"], [False, False, False, True, False])
    paid = dataclasses.replace(make_episode(3), rewards=np.float32([-0.1, -0.1, 0.9]))
    np.testing.assert_allclose(relabelled(paid, "x", step_penalty=0.1).rewards, [-0.1] * 3)


def test_hindsight_without_a_last_observation_gives_up_the_last_transition():
    episode = make_episode(3)
    failed = relabelled(dataclasses.replace(episode, state=episode.state[:3]), "x", 0.0)
    found = cut(failed, 0, Cutting(5, 1, 1))
    np.testing.assert_array_equal(found["trainable"], [True, True, False, False, False])
    np.testing.assert_array_equal(found["is_last"], [False, False, True, False, False])


def test_a_damaged_image_is_named():
    episode = dataclasses.replace(make_episode(6), images={"front": [b"\xff\xd8\xff broken"] * 7})
    with pytest.raises(segments.BadFrame, match="step 3: image 'front' does not decode"):
        cut(episode, 1, Cutting(4, 1, 1), cameras=("front",))
