"""Episodes of play as episodes of tasks, by hand: a point on a line, solved from 3 on (or below -1)."""

import dataclasses

import numpy as np
import pytest

from qt_jax.data import episodes, play
from qt_jax.data.episodes import Episode
from qt_jax.errors import UserError


def rewards(task, state):
    x = state[:, 0]
    return (np.minimum(x - 3, 0), x >= 3) if task == "right" else (-np.ones(len(x)), x < -1)


TASKS = play.Tasks({"right": "go right", "left": "go left"}, rewards)


def episode(*places):
    length = len(places) - 1
    return Episode(
        episode_id="play/play/000007",
        task=play.TASK,
        collector=play.TASK,
        instruction=play.TASK,
        embedding=np.zeros(2, np.float32),
        images={},
        state=np.asarray(places, np.float32)[:, None],
        actions=np.arange(length, dtype=np.float32)[:, None],
        rewards=np.zeros(length, np.float32),
        terminal=False,
        success=False,
        dt=0.05,
    )


def test_play_ends_where_the_task_is_solved_and_each_step_in_solved_states_ends_at_once():
    #                    actions 0  1  2  3  4  5  6
    pieces = TASKS(episode(0, 1, 3, 4, 2, 1, 3, 3))
    right = [piece for piece in pieces if piece.task == "right"]
    assert [piece.state[:, 0].tolist() for piece in right] == [[0, 1, 3], [3, 4], [4, 2], [2, 1, 3], [3, 3]]
    assert [piece.actions[:, 0].tolist() for piece in right] == [[0, 1], [2], [3], [4, 5], [6]]
    assert [piece.rewards.tolist() for piece in right] == [[-3, -2], [0], [0], [-1, -2], [0]]
    assert [piece.success for piece in right] == [True, False, False, True, False]
    assert all(piece.terminal and piece.instruction == "go right" for piece in right)
    (left,) = (piece for piece in pieces if piece.task == "left")
    assert left.length == 7 and not left.success and not left.terminal and left.embedding is None
    assert len({piece.episode_id for piece in pieces}) == 6 and pieces[5] is left


@pytest.mark.parametrize(
    "places, found",
    [
        ((3, 3), [(1, "solved")]),  # all along
        ((3, 2), [(1, "solved")]),  # the last state alone is unsolved: nothing was done there
        ((2, 3), [(1, "success")]),
        ((2, 2), [(1, "cut")]),
        ((3, 2, 2), [(1, "solved"), (1, "cut")]),
        ((0, 3, 0, 3), [(1, "success"), (1, "solved"), (1, "success")]),
        ((0, 3, 0, 0, 0), [(1, "success"), (1, "solved"), (2, "cut")]),
    ],
)
def test_the_ends_of_play(places, found):
    pieces = [piece for piece in TASKS(episode(*places)) if piece.task == "right"]
    kinds = {(True, True): "success", (True, False): "solved", (False, False): "cut"}
    assert [(piece.length, kinds[piece.terminal, piece.success]) for piece in pieces] == found


def test_decisions_hold_the_mean_of_the_actions_that_they_replace():
    """In twos from each of the first two steps: from the first on, actions 0 and 1 lead to state 2."""
    held = play.Tasks({"right": "go right"}, rewards, repeat=2)(episode(0, 1, 2, 3, 4, 2, 1))
    assert [piece.state[:, 0].tolist() for piece in held] == [[0, 2, 4], [4, 1], [1, 3], [3, 2]]
    assert [piece.actions[:, 0].tolist() for piece in held] == [[0.5, 2.5], [4.5], [1.5], [3.5]]
    assert [piece.rewards.tolist() for piece in held] == [[-3, -1], [0], [-2], [0]]
    assert [piece.success for piece in held] == [True, False, True, False]
    assert {piece.dt for piece in held} == {0.1} and len({piece.episode_id for piece in held}) == 4


def test_an_episode_that_is_too_short_to_hold_actions():
    held = play.Tasks({"right": "go right"}, rewards, repeat=3)
    assert len(held(episode(0, 0, 0, 0, 0, 0))) == 3
    with pytest.raises(UserError, match="Episode play/play/000007 of play has 4 steps, .*=3 needs 5; leave"):
        held(episode(0, 0, 0, 0, 0))


def test_a_decision_in_which_a_person_acted_is_a_persons():
    acted = dataclasses.replace(episode(0, 0, 0, 0, 0), intervention=np.array([False, True, False, False]))
    assert play.held(acted, 2, 0).intervention.tolist() == [True, False]
    assert play.held(acted, 2, 1).intervention.tolist() == [True]
    assert play.held(acted, 1, 0) is acted


def test_returns_are_those_of_the_rest_of_the_piece():
    """Discounted by a half a step: -2 + 0.5 (-1) to the solved state; cut short, a lower bound with -10."""
    solved, cut = (TASKS(episode(1, 2, last))[0] for last in (3, 2))
    found = [episodes.monte_carlo_returns(piece, 0.5, 0.05, q_min=-10.0) for piece in (solved, cut)]
    np.testing.assert_allclose(found, [[-2.5, -1.0], [-2 + 0.5 * -6, -1 + 0.5 * -10]])
