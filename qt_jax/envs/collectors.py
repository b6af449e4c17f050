"""Scripted collection: experts as demonstrations, and autonomous episodes that fail as real ones do.

An episode is labelled by the simulator's success flag alone: another task's policy may well solve the task.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from qt_jax.envs import suites
from qt_jax.envs.suite_env import SuiteEnv
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATION

AUTONOMOUS = ("noise", "perception_bias", "wrong_task", "stuck_gripper", "early_limit")
JPEG_QUALITY = 95
SPLITS = {"collect": 0, "evaluate": 1}
MAX_DEMONSTRATION_TRIES = 20
BATCH = 10
"""Episodes that share one environment."""


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initial conditions, noise and errors
    config.demonstrations = 100  # successful expert episodes a task
    config.autonomous = 200  # autonomous episodes a task
    config.mix = ml_collections.ConfigDict({"noise": 1.0})  # share of each kind of autonomous episode
    config.noise_scale = (0.7, 1.2)  # standard deviation of the action noise, drawn for each episode
    config.bias_m = (0.05, 0.1)  # length of the error in the perceived object position
    config.stuck_after = (3, 10)  # decisions before the gripper sticks
    config.early_limit = (4, 12)  # decisions before an early time limit
    config.file_format = "array_record"  # or "tfrecord"
    config.workers = 2  # processes
    config.runner = (
        "local"  # or "beam": as an Apache Beam pipeline, on as many machines as its own runner has
    )
    config.beam_options = ()  # Beam's own, such as ("--runner=DataflowRunner", "--project=lab")
    return config


@dataclasses.dataclass(frozen=True)
class EpisodePlan:
    """What one episode is to be; carries all of its randomness in `index` and the seed of the collection."""

    task: str
    collector: str
    index: int


@dataclasses.dataclass
class Episode:
    """`T` transitions and the observation after the last: images and state have T + 1 entries."""

    plan: EpisodePlan
    instruction: str
    images: dict[str, list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool
    dt: float


def episode_seed(split: str, seed: int, place: int, index: int, attempt: int = 0) -> np.random.SeedSequence:
    """place: of the task in its suite.

    Collection and evaluation draw from streams that share no entropy key, whatever their seeds are.
    """
    return np.random.SeedSequence((SPLITS[split], seed, place, index, attempt))


def environment_seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1)[0])


def evaluation_seed(config: Any, task: str, index: int) -> int:
    """Environment seed of evaluation episode `index` of a task."""
    return environment_seed(
        episode_seed("evaluate", config.evaluate.seed, suites.of(config).TASKS.index(task), index)
    )


def plan_episodes(config: ml_collections.ConfigDict, task_names: tuple[str, ...]) -> list[list[EpisodePlan]]:
    """All episodes of a collection, in batches of one task each.

    The shares of `config.mix` are exact up to rounding.
    """
    unknown = set(config.mix) - set(AUTONOMOUS)
    if unknown:
        raise UserError(
            f"config.collect.mix names unknown collectors {sorted(unknown)}; expected some of {AUTONOMOUS}."
        )
    shares = np.asarray([config.mix[kind] for kind in config.mix], float)
    least = {"demonstrations": 0, "autonomous": 0, "seed": 0, "workers": 1}
    problems = [
        f"config.collect.{key} is {config[key]}, expected {low} or more"
        for key, low in least.items()
        if config[key] < low
    ]
    problems += [
        f"config.collect.mix.{kind} is {config.mix[kind]}, expected a share of 0 or more"
        for kind in config.mix
        if config.mix[kind] < 0
    ]
    if config.autonomous and not shares.sum() > 0:
        problems.append(
            "config.collect.mix sums to 0, expected at least one kind of autonomous episode with a positive share"
        )
    if problems:
        raise UserError("; ".join(problems) + ".")
    edges = (
        np.round(np.cumsum(shares) / shares.sum() * config.autonomous).astype(int)
        if config.autonomous
        else ()
    )
    kinds = [kind for kind, low, high in zip(config.mix, (0, *edges), edges) for _ in range(high - low)]
    collectors = [DEMONSTRATION] * config.demonstrations + kinds
    plans = [
        [EpisodePlan(task, collector, index) for index, collector in enumerate(collectors)]
        for task in task_names
    ]
    return [
        one_task[start : start + BATCH] for start in range(0, len(collectors), BATCH) for one_task in plans
    ]


class Behaviour:
    """An expert and what is wrong with it in this episode."""

    def __init__(self, experiment: Any, plan: EpisodePlan, rng: np.random.Generator):
        config, suite = experiment.collect, suites.of(experiment)
        kind, task = plan.collector, plan.task
        if kind == "wrong_task":

            def others(names):
                return [name for name in suite.suite_tasks(names) if name != task]

            task = str(rng.choice(others(experiment.env.tasks) or others(suite.get_config().tasks)))
        self._expert, self._misperceived = suite.Expert(task), suite.misperceived
        self._rng = rng
        self._noise = rng.uniform(*config.noise_scale) if kind == "noise" else 0.0
        direction = rng.normal(size=3)
        length = rng.uniform(*config.bias_m) if kind == "perception_bias" else 0.0
        self._bias = length * direction / np.linalg.norm(direction)
        self._stuck_after = (
            rng.integers(*config.stuck_after, endpoint=True) if kind == "stuck_gripper" else None
        )
        self.max_decisions = (
            int(rng.integers(*config.early_limit, endpoint=True)) if kind == "early_limit" else None
        )
        self._decisions = 0
        self._gripper = 0.0

    def __call__(self, simulator_state: Any) -> np.ndarray:
        action = self._expert(self._misperceived(simulator_state, self._bias))
        action = np.clip(action + self._noise * self._rng.normal(size=action.shape), -1.0, 1.0)
        if self._stuck_after is not None and self._decisions >= self._stuck_after:
            action[-1] = self._gripper
        self._gripper = action[-1]
        self._decisions += 1
        return action.astype(np.float32)


def collect_episodes(config: Any, plans: list[EpisodePlan]) -> list[Episode]:
    """Runs episodes of one task of the whole experiment's `config` (its `env` and `collect` parts).

    Same plan, same episode.

    Raises:
        UserError: if the expert fails `MAX_DEMONSTRATION_TRIES` times in a row.

    """
    env = suites.of(config).Environment(plans[0].task, config.env)  # slower to make than an episode is to run
    try:
        return [_collect(env, config, plan) for plan in plans]
    finally:
        env.close()


def _collect(env: SuiteEnv, config: Any, plan: EpisodePlan) -> Episode:
    """A demonstration is repeated from new initial conditions until it succeeds, as a person's would be
    before it is kept.
    """
    suite = suites.of(config)
    for attempt in range(MAX_DEMONSTRATION_TRIES):
        sequence = episode_seed(
            "collect", config.collect.seed, suite.TASKS.index(plan.task), plan.index, attempt
        )
        rng = np.random.default_rng(sequence.spawn(1)[0])
        episode = _rollout(env, Behaviour(config, plan, rng), plan, environment_seed(sequence))
        if episode.success or plan.collector != DEMONSTRATION:
            instruction = str(rng.choice(suite.INSTRUCTIONS[plan.task]))
            return dataclasses.replace(
                episode, instruction=instruction, dt=suite.decision_dt(config.env, plan.task)
            )
    raise UserError(
        f"The expert of {plan.task!r} failed {MAX_DEMONSTRATION_TRIES} times in a row within config.env.max_decisions="
        f"{config.env.max_decisions}; allow more decisions or a smaller config.env.action_repeat."
    )


def _rollout(env: SuiteEnv, behaviour: Behaviour, plan: EpisodePlan, seed: int) -> Episode:
    """Without its instruction and dt."""
    limit = {} if behaviour.max_decisions is None else {"max_decisions": behaviour.max_decisions}
    observation, _ = env.reset(seed=seed, options=limit)
    images: dict[str, list[bytes]] = {name: [_jpeg(image)] for name, image in observation["images"].items()}
    states, actions, rewards = [observation["state"]], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = behaviour(env.simulator_state)
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        rewards.append(reward)
        states.append(observation["state"])
        for name, image in observation["images"].items():
            images[name].append(_jpeg(image))
    return Episode(
        plan, "", images, np.stack(states), np.stack(actions), np.float32(rewards), terminated, 0.0
    )


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
