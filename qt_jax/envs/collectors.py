"""Scripted collection: experts as demonstrations, and autonomous episodes that fail as real ones do.

The simulator's success flag alone labels an episode: another task's policy may well solve the task.
"""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from qt_jax.data.recorded import RecordedEpisode
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
    """Returns the defaults of `config.collect`."""
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
    config.runner = "local"  # or "beam": an Apache Beam pipeline, on as many machines as its runner has
    config.beam_options = ()  # Beam's own, such as ("--runner=DataflowRunner", "--project=lab")
    return config


@dataclasses.dataclass(frozen=True)
class EpisodePlan:
    """An episode to collect. Its index and the collection's seed fix all of its randomness."""

    task: str
    collector: str
    index: int


def episode_seed(split: str, seed: int, place: int, index: int, attempt: int = 0) -> np.random.SeedSequence:
    """Returns the seed of one episode.

    Collection and evaluation draw from streams that share no entropy key, whatever their seeds are.

    Args:
        split: one of `SPLITS`.
        seed: of the collection or the evaluation.
        place: of the task in its suite.
        index: of the episode.
        attempt: how many times a demonstration failed before.
    """
    return np.random.SeedSequence((SPLITS[split], seed, place, index, attempt))


def environment_seed(sequence: np.random.SeedSequence) -> int:
    """Returns the integer that an environment's `reset` takes."""
    return int(sequence.generate_state(1)[0])


def evaluation_seed(config: Any, task: str, index: int) -> int:
    """Returns the environment's seed of evaluation episode `index` of a task."""
    place = suites.of(config).TASKS.index(task)
    return environment_seed(episode_seed("evaluate", config.evaluate.seed, place, index))


def plan_episodes(config: ml_collections.ConfigDict, task_names: tuple[str, ...]) -> list[list[EpisodePlan]]:
    """Plans all episodes of a collection, in batches of one task each.

    The shares of `config.mix` are exact up to rounding.

    Args:
        config: `config.collect`.
        task_names: of the suite's tasks.

    Raises:
        UserError: for an unknown collector, or a number that is out of range.
    """
    _check(config)
    kinds: list[str] = []
    if config.autonomous:
        shares = np.asarray([config.mix[kind] for kind in config.mix], float)
        edges = np.round(np.cumsum(shares) / shares.sum() * config.autonomous).astype(int)
        for kind, count in zip(config.mix, np.diff(edges, prepend=0)):
            kinds += [kind] * int(count)
    collectors = [DEMONSTRATION] * config.demonstrations + kinds

    plans = [
        [EpisodePlan(task, collector, index) for index, collector in enumerate(collectors)]
        for task in task_names
    ]
    starts = range(0, len(collectors), BATCH)
    return [of_task[start : start + BATCH] for start in starts for of_task in plans]


def _check(config: ml_collections.ConfigDict) -> None:
    unknown = set(config.mix) - set(AUTONOMOUS)
    if unknown:
        raise UserError(
            f"config.collect.mix names unknown collectors {sorted(unknown)}; expected some of {AUTONOMOUS}."
        )
    least = {"demonstrations": 0, "autonomous": 0, "seed": 0, "workers": 1}
    problems = [
        f"config.collect.{key} is {config[key]}, expected {low} or more"
        for key, low in least.items()
        if config[key] < low
    ]
    problems += [
        f"config.collect.mix.{kind} is {share}, expected a share of 0 or more"
        for kind, share in config.mix.items()
        if share < 0
    ]
    if config.autonomous and not sum(config.mix.values()) > 0:
        problems.append(
            "config.collect.mix sums to 0, expected at least one kind of autonomous episode with a positive "
            "share"
        )
    if problems:
        raise UserError("; ".join(problems) + ".")


class Behaviour:
    """Acts in one episode: an expert, with what is wrong with it in this episode."""

    def __init__(self, experiment: Any, plan: EpisodePlan, rng: np.random.Generator):
        """Draws what goes wrong.

        Args:
            experiment: the whole experiment's config.
            plan: the episode's.
            rng: the episode's own generator. The order of the draws fixes what a dataset holds.
        """
        config, suite = experiment.collect, suites.of(experiment)
        kind, task = plan.collector, plan.task
        if kind == "wrong_task":
            task = _another_task(experiment, task, rng)
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

    def __call__(self, simulator_state: Any) -> np.ndarray:
        """Returns the next action, float32 [D], in [-1, 1]."""
        action = self._expert(self._misperceived(simulator_state, self._bias))
        action = np.clip(action + self._noise * self._rng.normal(size=action.shape), -1.0, 1.0)
        if self._stuck_after is not None and self._decisions >= self._stuck_after:
            action[-1] = self._gripper
        self._gripper = action[-1]
        self._decisions += 1
        return action.astype(np.float32)


def _another_task(experiment: Any, task: str, rng: np.random.Generator) -> str:
    """Draws one of the experiment's other tasks; where it has none, of the suite's default ones."""
    suite = suites.of(experiment)
    for names in (experiment.env.tasks, suite.get_config().tasks):
        if others := [name for name in suite.suite_tasks(names) if name != task]:
            break
    return str(rng.choice(others))


def _draw(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return int(rng.integers(low, high, endpoint=True))


def collect_episodes(config: Any, plans: list[EpisodePlan]) -> list[RecordedEpisode]:
    """Runs episodes of one task. The same plan gives the same episode.

    Args:
        config: the whole experiment's; `env` and `collect` are used.
        plans: all of one task.

    Raises:
        UserError: if the expert fails `MAX_DEMONSTRATION_TRIES` times in a row.
    """
    env = suites.of(config).Environment(plans[0].task, config.env)  # slower to make than an episode is to run
    try:
        return [_collect(env, config, plan) for plan in plans]
    finally:
        env.close()


def _collect(env: SuiteEnv, config: Any, plan: EpisodePlan) -> RecordedEpisode:
    """Repeats a demonstration from new initial conditions until it succeeds.

    So does a person, who keeps the successful ones alone.
    """
    suite = suites.of(config)
    place = suite.TASKS.index(plan.task)
    for attempt in range(MAX_DEMONSTRATION_TRIES):
        sequence = episode_seed("collect", config.collect.seed, place, plan.index, attempt)
        rng = np.random.default_rng(sequence.spawn(1)[0])
        episode = _rollout(env, Behaviour(config, plan, rng), plan, environment_seed(sequence))
        if episode.success or plan.collector != DEMONSTRATION:
            instruction = str(rng.choice(suite.INSTRUCTIONS[plan.task]))
            dt = suite.decision_dt(config.env, plan.task)
            return dataclasses.replace(episode, instruction=instruction, dt=dt)
    raise UserError(
        f"The expert of {plan.task!r} failed {MAX_DEMONSTRATION_TRIES} times in a row within "
        f"config.env.max_decisions={config.env.max_decisions}; allow more decisions or a smaller "
        "config.env.action_repeat."
    )


def _rollout(env: SuiteEnv, behaviour: Behaviour, plan: EpisodePlan, seed: int) -> RecordedEpisode:
    """Runs the episode; its instruction and dt are still to be filled in."""
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

    return RecordedEpisode(
        task=plan.task,
        collector=plan.collector,
        index=plan.index,
        instruction="",
        images=images,
        state=np.stack(states),
        actions=np.stack(actions),
        rewards=np.asarray(rewards, np.float32),
        success=terminated,
        dt=0.0,
    )


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
