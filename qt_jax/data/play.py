"""Episodes of play, seen as episodes of each task whose reward is a function of the state.

Play has no task of its own. Where the reward of a task needs the state alone, what an episode is worth to
that task is known exactly: hindsight that guesses nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np

from qt_jax.data.episodes import Episode
from qt_jax.errors import UserError

TASK = "play"
"""Task and collector of an episode of play, as it is stored."""

Rewards = Callable[[str, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(task, states [R, S]) -> the reward of acting in each state, float32 [R]; whether it is solved there."""


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Tasks that play is seen as episodes of.

    instructions: {task: the sentence of its episodes}
    rewards: see `Rewards`; a user's own are picklable
    repeat: actions of play that make one decision (`held`)
    """

    instructions: Mapping[str, str]
    rewards: Rewards
    repeat: int = 1

    def __call__(self, episode: Episode) -> list[Episode]:
        """Returns the episodes of each task, in the order of the tasks, of the first step, then of time.

        Raises:
            UserError: for an episode that is too short to be decided from each of its first steps on.
        """
        if episode.length < 2 * self.repeat - 1:
            raise UserError(
                f"Episode {episode.episode_id} of play has {episode.length} steps, and "
                f"config.env.action_repeat={self.repeat} needs {2 * self.repeat - 1}; leave it out, or hold "
                "actions for fewer."
            )
        decided = [held(episode, self.repeat, first) for first in range(self.repeat)]
        return [piece for task in self.instructions for own in decided for piece in self._of(own, task)]

    def _of(self, episode: Episode, task: str) -> list[Episode]:
        """Cuts an episode where the task is solved, and where it is undone.

        A piece ends in a solved state, and is a success, or with the episode. What is done in a solved state
        is a piece of one step each: its reward is the greatest, nothing follows, and it is no success, since
        nothing was left to do. These steps tell a critic where the goal is: without them one transition in
        some thousands ends a task.
        """
        rewards, solved = self.rewards(task, episode.state)
        acted = solved[:-1]
        begins = np.flatnonzero(acted | np.append(True, acted[:-1]))  # at each solved state and after it
        pieces = []
        for begin, end in itertools.pairwise((*begins.tolist(), episode.length)):
            before, after = bool(solved[begin]), bool(solved[end])
            piece = self._piece(episode, task, slice(begin, end), rewards)
            pieces.append(dataclasses.replace(piece, terminal=before or after, success=after and not before))
        return pieces

    def _piece(self, episode: Episode, task: str, steps: slice, rewards: np.ndarray) -> Episode:
        seen = slice(steps.start, steps.stop + 1)
        return dataclasses.replace(
            episode,
            episode_id=f"{episode.episode_id}/{task}/{steps.start:06d}",
            task=task,
            instruction=self.instructions[task],
            embedding=None,
            images={name: frames[seen] for name, frames in episode.images.items()},
            # Copies, so that a short piece in memory does not hold all of its episode.
            state=episode.state[seen].copy(),
            actions=episode.actions[steps].copy(),
            rewards=episode.rewards[steps] + rewards[steps],
            intervention=None if episode.intervention is None else episode.intervention[steps].copy(),
        )


def held(episode: Episode, repeat: int, first: int) -> Episode:
    """Returns an episode whose decisions are held for `repeat` steps of the given one.

    A decision's action is the mean of those that it replaces, its reward that of the first of them. What is
    left at the end is given up.

    Args:
        episode: of `first + repeat` steps or more. Its actions are changes, of which as many means add up to
            the same.
        repeat: 1 gives the same episode.
        first: the step of the first decision, below `repeat`.
    """
    if repeat == 1:
        return episode
    decisions = (episode.length - first) // repeat
    steps = slice(first, first + decisions * repeat)
    seen = slice(first, steps.stop + 1, repeat)
    people, shape = episode.intervention, (decisions, repeat)
    return dataclasses.replace(
        episode,
        episode_id=f"{episode.episode_id}/{first}",
        images={name: frames[seen] for name, frames in episode.images.items()},
        state=episode.state[seen],
        actions=episode.actions[steps].reshape(*shape, -1).mean(axis=1),
        rewards=episode.rewards[steps][::repeat],
        intervention=None if people is None else np.logical_or.reduce(people[steps].reshape(shape), axis=1),
        dt=episode.dt * repeat,
    )
