"""Episodes of a policy in a suite: several environments stepped as one policy batch, through the runtime that
serves robots.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from qt_jax.policy.sessions import Decision, Request


@dataclasses.dataclass(frozen=True)
class Job:
    """One evaluation episode: `index` fixes its initial conditions; `instruction` is what the policy is told."""

    task: str
    index: int
    instruction: str


@dataclasses.dataclass
class Rollout:
    """What happened: actions [T, D]; scores of the chosen bin of each dim, [T, D]; all scores [T, D, N] and
    frames only when traced.
    """

    job: Job
    success: bool
    length: int
    actions: np.ndarray
    chosen_scores: np.ndarray
    scores: np.ndarray | None = None
    frames: list[np.ndarray] | None = None


class Actor(Protocol):
    """`policy.sessions.Sessions`, or a served policy: `serving.client.Remote`."""

    def act(self, requests: Sequence[Request]) -> list[Decision]: ...

    def close(self, session: Hashable) -> None: ...


def run(
    actor: Actor,
    num_envs: int,
    jobs: list[Job],
    make_env: Callable[[str], Any],
    begin: Callable[[Any, Job], Sequence[dict[str, Any]]],
    *,
    trace: Callable[[Job], bool] = lambda job: False,
    video_size: int = 192,
    on_done: Callable[[Rollout], None] = lambda rollout: None,
) -> list[Rollout]:
    """Runs every job to its end and returns the rollouts in the order of `jobs`.

    Same policy and seeds, same rollouts.

    Args:
        begin: puts an environment in the state where a job begins. Returns its observation, after those
            before it that the policy is to have seen.

    """
    waiting = collections.deque(enumerate(jobs))
    running: list[_OpenEpisode | None] = [None] * num_envs
    done: dict[int, Rollout] = {}
    with _Environments(make_env) as envs:
        while waiting or any(running):
            for i in range(num_envs):
                if running[i] is None and waiting:
                    number, job = waiting.popleft()
                    env = envs.get(i, job.task)
                    first, *later = begin(env, job)
                    running[i] = episode = _OpenEpisode(number, job, env, first, trace(job))
                    for observation in later:
                        actor.act([episode.request()])
                        episode.observation = observation
                    episode.see(video_size)

            active = [episode for episode in running if episode is not None]
            for episode, decision in zip(active, actor.act([episode.request() for episode in active])):
                episode.observation, _, terminated, truncated, _ = episode.env.step(decision.action)
                episode.record(decision)
                episode.see(video_size)
                if terminated or truncated:
                    done[episode.number] = episode.finish(terminated)
                    on_done(done[episode.number])
                    actor.close(episode.number)
                    running[running.index(episode)] = None
    return [done[i] for i in range(len(jobs))]


class _Environments:
    """Open environments by number, each made anew where its next episode is of another task.

    Closed at the end, whatever happens.
    """

    def __init__(self, make_env: Callable[[str], Any]):
        self._make_env = make_env
        self._open: dict[int, tuple[str, Any]] = {}

    def __enter__(self) -> _Environments:
        return self

    def get(self, number: int, task: str) -> Any:
        open_task, env = self._open.get(number, (None, None))
        if open_task == task:
            return env
        if env is not None:
            env.close()  # before the next is made: see ground.md on OSMesa
        self._open[number] = (task, self._make_env(task))
        return self._open[number][1]

    def __exit__(self, *error: object) -> None:
        for _, env in self._open.values():
            env.close()


class _OpenEpisode:
    """One episode under way."""

    def __init__(self, number: int, job: Job, env: Any, observation: dict[str, Any], traced: bool):
        self.number, self.job, self.env, self.observation = number, job, env, observation
        self._reset = True
        self._actions: list[np.ndarray] = []
        self._frames: list[np.ndarray] | None = [] if traced else None
        self._scores: list[np.ndarray] = []
        self._chosen: list[np.ndarray] = []

    def see(self, size: int) -> None:
        if self._frames is not None:
            self._frames.append(self.env.render_frame(size))

    def request(self) -> Request:
        reset, self._reset = self._reset, False
        return Request(
            self.number, self.observation["images"], self.observation["state"], self.job.instruction, reset
        )

    def record(self, decision: Decision) -> None:
        self._actions.append(decision.action)
        self._chosen.append(decision.chosen)
        if self._frames is not None:
            self._scores.append(decision.scores)

    def finish(self, success: bool) -> Rollout:
        scores = np.stack(self._scores) if self._scores else None
        return Rollout(
            self.job,
            success,
            len(self._chosen),
            np.stack(self._actions),
            np.stack(self._chosen),
            scores,
            self._frames,
        )
