"""Episodes of a policy in a suite: several environments stepped as one policy batch."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from qt_jax.serving.policy import Policy


@dataclasses.dataclass(frozen=True)
class Job:
    """One evaluation episode: `index` fixes its initial conditions; `instruction` is what the policy is told."""

    task: str
    index: int
    instruction: str


@dataclasses.dataclass
class Rollout:
    """What happened: scores are those of the chosen bin of each dim, [T, D]; the full scores [T, D, N] and frames only when traced."""

    job: Job
    success: bool
    length: int
    chosen_scores: np.ndarray
    scores: np.ndarray | None = None
    frames: list[np.ndarray] | None = None


def run(
    policy: Policy,
    jobs: list[Job],
    make_env: Callable[[str], Any],
    environment_seed: Callable[[Job], int],
    embed: Callable[[str], np.ndarray],
    *,
    trace: Callable[[Job], bool] = lambda job: False,
    video_size: int = 192,
    on_done: Callable[[Rollout], None] = lambda rollout: None,
) -> list[Rollout]:
    """Runs every job to its end and returns the rollouts in the order of `jobs`. Same policy and seeds, same rollouts."""
    waiting = collections.deque(enumerate(jobs))
    slots: list[_Slot | None] = [None] * policy.slots
    done: dict[int, Rollout] = {}
    inputs = _Inputs(policy)
    with _Environments(make_env) as envs:
        while waiting or any(slots):
            for i in range(policy.slots):
                if slots[i] is None and waiting:
                    number, job = waiting.popleft()
                    env = envs.get(i, job.task)
                    observation, _ = env.reset(seed=environment_seed(job))
                    slots[i] = _Slot(number, job, env, trace(job))
                    slots[i].see(video_size)
                    inputs.put(i, observation, embed(job.instruction), is_first=True)
            action = policy.act(**inputs.arrays)
            for i, slot in enumerate(slots):
                if slot is None:
                    continue
                observation, _, terminated, truncated, _ = slot.env.step(action.actions[i])
                slot.record(action.scores[i], action.tokens[i])
                slot.see(video_size)
                inputs.put(i, observation, embed(slot.job.instruction), is_first=False)
                if terminated or truncated:
                    done[slot.number] = slot.finish(terminated)
                    on_done(done[slot.number])
                    slots[i] = None
    return [done[i] for i in range(len(jobs))]


class _Environments:
    """One open environment a slot, made anew where the slot's next episode is of another task. Closed at the end, whatever happens."""

    def __init__(self, make_env: Callable[[str], Any]):
        self._make_env = make_env
        self._open: dict[int, tuple[str, Any]] = {}

    def __enter__(self) -> _Environments:
        return self

    def get(self, slot: int, task: str) -> Any:
        open_task, env = self._open.get(slot, (None, None))
        if open_task == task:
            return env
        if env is not None:
            env.close()  # before the next is made: see ground.md on OSMesa
        self._open[slot] = (task, self._make_env(task))
        return self._open[slot][1]

    def __exit__(self, *error: object) -> None:
        for _, env in self._open.values():
            env.close()


class _Inputs:
    """The policy's batch; a slot without an episode keeps its last observation."""

    def __init__(self, policy: Policy):
        observation, slots = policy.spec.observation, policy.slots
        self.arrays = {
            "images": {name: np.zeros((slots, *observation.image_size, 3), np.uint8) for name in observation.cameras},
            "state": np.zeros((slots, observation.state_dim), np.float32),
            "instruction": np.zeros((slots, policy.spec.instruction_dim), np.float32),
            "is_first": np.ones(slots, bool),
        }

    def put(self, slot: int, observation: dict[str, Any], instruction: np.ndarray, is_first: bool) -> None:
        for name, image in observation["images"].items():
            self.arrays["images"][name][slot] = image
        self.arrays["state"][slot] = observation["state"]
        self.arrays["instruction"][slot] = instruction
        self.arrays["is_first"][slot] = is_first


class _Slot:
    """One episode under way."""

    def __init__(self, number: int, job: Job, env: Any, traced: bool):
        self.number, self.job, self.env = number, job, env
        self._frames: list[np.ndarray] | None = [] if traced else None
        self._scores: list[np.ndarray] = []
        self._chosen: list[np.ndarray] = []

    def see(self, size: int) -> None:
        if self._frames is not None:
            self._frames.append(self.env.render_frame(size))

    def record(self, scores: np.ndarray, tokens: np.ndarray) -> None:
        self._chosen.append(np.take_along_axis(scores, tokens[:, None], axis=-1)[:, 0])
        if self._frames is not None:
            self._scores.append(scores)

    def finish(self, success: bool) -> Rollout:
        scores = np.stack(self._scores) if self._scores else None
        return Rollout(self.job, success, len(self._chosen), np.stack(self._chosen), scores, self._frames)
