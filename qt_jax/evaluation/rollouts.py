"""Episodes of a policy in simulated environments, through the runtime that serves robots.

Several environments are stepped as one policy batch.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from qt_jax.policy.requests import Decision, Request


@dataclasses.dataclass(frozen=True)
class Job:
    """One evaluation episode.

    Attributes:
        task: whose success counts.
        index: fixes the initial conditions, and what a policy draws by chance.
        instruction: that the policy is given.

    """

    task: str
    index: int
    instruction: str


@dataclasses.dataclass
class Rollout:
    """What happened in an episode.

    Attributes:
        job: the episode.
        success: whether the task was achieved.
        length: T, in control steps.
        actions: float [T, dims of one action], those that were executed.
        chosen_scores: float [decisions, D], of the chosen bin of each dim of a decision.
        scores: float [decisions, D, N] of all bins, of a traced episode.
        frames: uint8 [H, W, 3] each, T + 1 of them, of a traced episode.
        behaviour: float [decisions, D, N], probabilities of bins by the behaviour head, of a traced episode.

    """

    job: Job
    success: bool
    length: int
    actions: np.ndarray
    chosen_scores: np.ndarray
    scores: np.ndarray | None = None
    frames: list[np.ndarray] | None = None
    behaviour: np.ndarray | None = None


class Actor(Protocol):
    """What decides actions: `policy.sessions.Sessions`, or a served policy (`serving.client.Remote`)."""

    def act(self, requests: Sequence[Request]) -> list[Decision]:
        """Decides for each request, of different sessions."""
        ...

    def close(self, session: Hashable) -> None:
        """Ends a session."""
        ...


def _never(job: Job) -> bool:
    return False


def _ignore(rollout: Rollout) -> None:
    pass


def run(
    actor: Actor,
    num_envs: int,
    jobs: list[Job],
    make_env: Callable[[str], Any],
    begin: Callable[[Any, Job], Sequence[dict[str, Any]]],
    *,
    trace: Callable[[Job], bool] = _never,
    video_size: int = 192,
    on_done: Callable[[Rollout], None] = _ignore,
) -> list[Rollout]:
    """Runs every job to its end and returns the rollouts in the order of `jobs`.

    The same policy and seeds give the same rollouts.

    Args:
        actor: the policy; each job is a session of its own.
        num_envs: how many episodes run at once.
        jobs: the episodes, best sorted by task: an environment is made anew for another task.
        make_env: task -> environment.
        begin: puts an environment in the state where a job begins. Returns its observation, after those
            before it that the policy is to have seen.
        trace: whether to keep an episode's frames and scores.
        video_size: height and width of the frames.
        on_done: called with each rollout as it ends.

    """
    waiting = collections.deque(enumerate(jobs))
    running: dict[int, _Episode] = {}  # by the number of its environment
    done: dict[int, Rollout] = {}

    with _Environments(make_env) as envs:
        while waiting or running:
            for place in range(num_envs):
                if place not in running and waiting:
                    number, job = waiting.popleft()
                    env = envs.get(place, job.task)
                    first, *later = begin(env, job)
                    episode = running[place] = _Episode(number, job, env, first, trace(job))
                    for observation in later:
                        actor.act([episode.request()])
                        episode.observation = observation
                    episode.film(video_size)

            active = sorted(running.items())
            decisions = actor.act([episode.request() for _, episode in active])
            for (place, episode), decision in zip(active, decisions):
                terminated, truncated = episode.execute(decision, video_size)
                if terminated or truncated:
                    done[episode.number] = episode.finish(terminated)
                    on_done(done[episode.number])
                    actor.close(episode.number)
                    del running[place]
    return [done[i] for i in range(len(jobs))]


class _Environments:
    """Open environments by their number; one is made anew where its next episode is of another task.

    A context manager that closes them all.
    """

    def __init__(self, make_env: Callable[[str], Any]):
        self._make_env = make_env
        self._open: dict[int, tuple[str, Any]] = {}

    def __enter__(self) -> _Environments:
        return self

    def get(self, place: int, task: str) -> Any:
        open_task, env = self._open.get(place, (None, None))
        if open_task == task:
            return env
        if env is not None:
            env.close()  # before the next is made: OSMesa renders garbage once an older renderer is freed
        self._open[place] = (task, self._make_env(task))
        return self._open[place][1]

    def __exit__(self, *error: object) -> None:
        for _, env in self._open.values():
            env.close()


class _Episode:
    """An episode under way, in an environment of its own."""

    def __init__(self, number: int, job: Job, env: Any, observation: dict[str, Any], traced: bool):
        self.number, self.job, self.env, self.observation = number, job, env, observation
        self._reset = True
        self._actions: list[np.ndarray] = []
        self._frames: list[np.ndarray] | None = [] if traced else None
        self._scores: list[np.ndarray] = []
        self._behaviour: list[np.ndarray] = []
        self._chosen: list[np.ndarray] = []

    def film(self, size: int) -> None:
        if self._frames is not None:
            self._frames.append(self.env.render_frame(size))

    def request(self) -> Request:
        reset, self._reset = self._reset, False
        seen, job = self.observation, self.job
        return Request(self.number, seen["images"], seen["state"], job.instruction, reset, seed=job.index)

    def execute(self, decision: Decision, video_size: int) -> tuple[bool, bool]:
        """Executes the actions until the episode ends; returns whether it terminated, or was truncated."""
        self._chosen.append(decision.chosen)
        if self._frames is not None:
            self._scores.append(decision.scores)
            if decision.behaviour is not None:
                self._behaviour.append(decision.behaviour)
        terminated = truncated = False
        for action in decision.actions:
            self.observation, _, terminated, truncated, _ = self.env.step(action)
            self._actions.append(action)
            self.film(video_size)
            if terminated or truncated:
                break
        return terminated, truncated

    def finish(self, success: bool) -> Rollout:
        scores, behaviour = (np.stack(kept) if kept else None for kept in (self._scores, self._behaviour))
        return Rollout(
            self.job,
            success,
            len(self._actions),
            np.stack(self._actions),
            np.stack(self._chosen),
            scores,
            self._frames,
            behaviour,
        )
