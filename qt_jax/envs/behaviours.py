"""What acts in a collected episode: scripted experts with what is wrong with them, or a trained policy."""

from __future__ import annotations

import abc
import collections
from typing import Any

import numpy as np

from qt_jax.envs import suites
from qt_jax.policy.loaded import LoadedPolicy
from qt_jax.specs import DEMONSTRATION, HUMAN, LEARNED

FAILING = ("noise", "perception_bias", "wrong_task", "stuck_gripper", "early_limit")
WANDER = "wander"
AUTONOMOUS = (*FAILING, WANDER, *LEARNED)
"""Collectors of autonomous episodes, which are kept whether they succeed or not."""


class Behaviour(abc.ABC):
    """Acts in one episode.

    max_decisions: a time limit of its own, or None; by_person: whether a person made the last decision.
    """

    max_decisions: int | None = None
    by_person: bool = False

    @abc.abstractmethod
    def __call__(self, simulator_state: Any, observation: dict[str, Any]) -> np.ndarray:
        """Returns the next action, float32 [D], in [-1, 1]."""


def scripted(experiment: Any, kind: str, task: str, rng: np.random.Generator) -> Behaviour:
    """Makes the behaviour of a scripted collector in an episode.

    Args:
        experiment: the whole experiment's config.
        kind: of collector.
        task: that is to be done.
        rng: the episode's own generator. The order of the draws fixes what a dataset holds.
    """
    made = {WANDER: Wandering, HUMAN: Human}
    return made[kind](experiment, task, rng) if kind in made else Expert(experiment, kind, task, rng)


class Expert(Behaviour):
    """The task's expert, with what is wrong with it in this episode; with nothing in a demonstration."""

    def __init__(self, experiment: Any, kind: str, task: str, rng: np.random.Generator):
        config, suite = experiment.collect, suites.of(experiment)
        assert kind in (DEMONSTRATION, *FAILING), kind
        self.by_person = kind == DEMONSTRATION
        if kind == "wrong_task":
            task = str(rng.choice(_other_tasks(experiment, task)))
        self._expert, self._misperceived = suite.Expert(task), suite.misperceived
        self._rng = rng

        self._noise = rng.uniform(*config.noise_scale) if kind == "noise" else 0.0
        direction = rng.normal(size=3)
        length = rng.uniform(*config.bias_m) if kind == "perception_bias" else 0.0
        self._bias = length * direction / np.linalg.norm(direction)
        self._stuck_after = _draw(rng, config.stuck_after) if kind == "stuck_gripper" else None
        self.max_decisions = _draw(rng, config.early_limit) if kind == "early_limit" else None

        self._decisions = 0
        self._gripper = 0.0

    def __call__(self, simulator_state: Any, observation: dict[str, Any]) -> np.ndarray:
        """Returns the next action."""
        action = self._expert(self._misperceived(simulator_state, self._bias))
        action = _noisy(action, self._noise, self._rng)
        if self._stuck_after is not None and self._decisions >= self._stuck_after:
            action[-1] = self._gripper
        self._gripper = action[-1]
        self._decisions += 1
        return action


class Wandering(Behaviour):
    """Pieces of a few decisions: of the task's expert, of another task's, or one random action held.

    What is not the task's expert's is shared evenly by the other two. An episode that succeeds after all has
    detours in it, which imitation of the successes imitates.
    """

    def __init__(self, experiment: Any, task: str, rng: np.random.Generator):
        self._config, self._suite, self._rng = experiment.collect, suites.of(experiment), rng
        self._dims = len(self._suite.action_spec(experiment.env).names)
        self._own, self._others = self._suite.Expert(task), _other_tasks(experiment, task)
        self._left = 0

    def __call__(self, simulator_state: Any, observation: dict[str, Any]) -> np.ndarray:
        """Returns the next action."""
        if not self._left:
            self._left = _draw(self._rng, self._config.wander_piece)
            self._act = self._piece()
        self._left -= 1
        return _noisy(self._act(simulator_state), self._config.wander_noise, self._rng)

    def _piece(self) -> Any:
        own = self._config.wander_expert
        kind = self._rng.choice(3, p=(own, (1 - own) / 2, (1 - own) / 2))
        if kind == 0:
            return self._own
        if kind == 1:
            return self._suite.Expert(str(self._rng.choice(self._others)))
        held = self._rng.uniform(-1.0, 1.0, self._dims)
        return lambda state: held


class Human(Behaviour):
    """The task's expert as a person would do it: slower, with pauses and detours, in one of several styles.

    A style is another task's expert that does this task too (a suite's STYLES): one person pushes the puck
    with a closed hand, the next one grasps it and carries it.
    """

    PAUSE = (1, 3)
    """Decisions of a pause."""
    DETOUR_AFTER, DETOUR = (1, 6), (3, 6)
    """Decisions before a detour, and of it."""

    by_person = True

    def __init__(self, experiment: Any, task: str, rng: np.random.Generator):
        config, suite = experiment.collect, suites.of(experiment)
        names = suite.action_spec(experiment.env).names
        self._moves = np.asarray([not name.startswith("grip") for name in names])
        self._expert = suite.Expert(str(rng.choice((task, *suite.STYLES.get(task, ())))))
        self._rng, self._speed = rng, rng.uniform(*config.human_speed)

        rest = config.human_idle / np.mean(self.PAUSE)
        self._pause_rate = rest / (rest + 1 - config.human_idle)
        after = _draw(rng, self.DETOUR_AFTER) if rng.random() < config.human_detour else np.inf
        self._detour = (after, after + _draw(rng, self.DETOUR))
        self._aside = rng.normal(size=len(names))
        self._aside /= np.abs(self._aside[self._moves]).max()

        self._decisions = self._resting = 0

    def __call__(self, simulator_state: Any, observation: dict[str, Any]) -> np.ndarray:
        """Returns the next action."""
        action = self._expert(simulator_state)
        if not self._resting and self._rng.random() < self._pause_rate:
            self._resting = _draw(self._rng, self.PAUSE)
        begin, end = self._detour
        if begin <= self._decisions < end:
            action = np.where(self._moves, self._aside, action)
        action = np.where(self._moves, action * self._speed * (not self._resting), action)
        self._resting = max(self._resting - 1, 0)
        self._decisions += 1
        return action.astype(np.float32)


class Acting(Behaviour):
    """A trained policy, as it acts on a robot: decision after decision, each executed to its end."""

    def __init__(self, policy: LoadedPolicy, instruction: str, seed: int):
        self._policy, self._told = policy, {"prompt": instruction, "reset": True, "seed": seed}
        self._decided: collections.deque[np.ndarray] = collections.deque()

    def __call__(self, simulator_state: Any, observation: dict[str, Any]) -> np.ndarray:
        """Returns the next action."""
        if not self._decided:
            seen = {f"observation/{name}": image for name, image in observation["images"].items()}
            if observation["state"].size:
                seen["observation/state"] = observation["state"]
            self._decided.extend(self._policy.infer(self._told | seen)["actions"])
            self._told = {"prompt": self._told["prompt"]}
        return self._decided.popleft()


class Intervened(Behaviour):
    """A policy's episode in which a person, the task's expert, takes over for a few decisions now and then.

    The policy is asked all the same, so that it remembers what the robot saw.
    """

    def __init__(self, policy: Behaviour, experiment: Any, task: str, rng: np.random.Generator):
        self._policy, self._config, self._rng = policy, experiment.collect, rng
        self._expert, self._left = suites.of(experiment).Expert(task), 0

    def __call__(self, simulator_state: Any, observation: dict[str, Any]) -> np.ndarray:
        """Returns the next action."""
        if not self._left:
            self._left = _draw(self._rng, self._config.intervention_piece)
            self.by_person = bool(self._rng.random() < self._config.intervention_share)
        self._left -= 1
        decided = self._policy(simulator_state, observation)
        return self._expert(simulator_state) if self.by_person else decided


def _other_tasks(experiment: Any, task: str) -> list[str]:
    """Lists the experiment's other tasks; where it has none, the suite's default ones."""
    suite, others = suites.of(experiment), []
    for names in (experiment.env.tasks, suite.get_config().tasks):
        if others := [name for name in suite.suite_tasks(names) if name != task]:
            break
    return others


def _noisy(action: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(action + scale * rng.normal(size=action.shape), -1.0, 1.0).astype(np.float32)


def _draw(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return int(rng.integers(low, high, endpoint=True))
