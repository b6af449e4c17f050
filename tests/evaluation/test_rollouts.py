"""Rollouts in an environment of a counter; the policy has no network and executes two of three actions."""

import numpy as np

from qt_jax.evaluation import affordances, rollouts
from qt_jax.evaluation.rollouts import Job
from qt_jax.policy.sessions import Sessions
from tests.policy.table_policy import TablePolicy


class Counter:
    """It terminates at the step whose number is its task, and is truncated at the twelfth."""

    def __init__(self, task):
        self.last, self.steps = int(task), 0

    def observe(self):
        state = np.full(4, self.steps, np.float32)
        return {"images": {"front": np.zeros((16, 16, 3), np.uint8)}, "state": state}

    def step(self, action):
        self.steps += 1
        terminated = self.steps == self.last
        return self.observe(), float(terminated), terminated, not terminated and self.steps == 12, {}

    def replay(self, seed, actions, keep):
        self.steps, seen = -1, []
        for _ in range(len(actions) + 1):
            self.steps += 1
            seen.append(self.observe())
        return seen[-keep:], False

    def render_frame(self, size):
        return np.full((size, size, 3), self.steps, np.uint8)

    def close(self):
        pass


class Watched(TablePolicy):
    def __init__(self):
        super().__init__(chunk=3, execute=2)
        self.seen = []

    def _decide(self, episode, images, state, *inputs):
        self.seen += state[:, 0].tolist()
        return super()._decide(episode)


def make_sessions():
    return Sessions(Watched(), lambda sentence: np.zeros(12, np.float32))


def test_an_episode_may_end_between_two_decisions():
    sessions = make_sessions()
    jobs = [Job(task, 0, "open") for task in ("3", "4", "99")]
    ended, cut, late = rollouts.run(
        sessions, 2, jobs, Counter, lambda env, job: [env.observe()], trace=lambda job: True
    )
    assert [one.length for one in (ended, cut, late)] == [3, 4, 12]
    assert [one.success for one in (ended, cut, late)] == [True, True, False]
    np.testing.assert_array_equal(ended.actions, [[0.5, -0.5, 0.5]] * 3)  # the best of two bins over [-1, 1]
    assert ended.chosen_scores.shape == (2, 9) and ended.scores.shape == (2, 9, 2)
    assert [frame[0, 0, 0] for frame in ended.frames] == [0, 1, 2, 3]
    assert not len(sessions)


def test_a_state_within_an_episode_is_valued_with_the_frames_that_the_policy_has_there():
    """A window of three frames, two steps apart. The episode from there succeeds with its fourth action."""
    sessions = make_sessions()
    suite = affordances.Suite(
        scenes=[("9",)],
        instructions={"9": "open"},
        make_env=Counter,
        seed=lambda task, index: 0,
        run=lambda jobs, begin: rollouts.run(sessions, 1, jobs, Counter, begin),
    )
    (row,) = affordances.pairs(suite, sessions, [affordances.State("9", 0, np.zeros((5, 3)))])
    assert row["value"] == 0.75 and row["success"]
    acted = sessions.policy.seen
    assert acted[:3] == [1, 3, 5] and acted[-4:] == [1, 3, 5, 7]
