"""Collection in a simulator: demonstrations, and autonomous episodes that fail as real ones do.

The simulator's success flag alone labels an episode, or a function of yours (`config.collect.label`): another
task's policy may well solve the task.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np
from PIL import Image

from qt_jax import plugins
from qt_jax.data.recorded import RecordedEpisode, rewards_of
from qt_jax.envs import behaviours, suites
from qt_jax.envs.behaviours import AUTONOMOUS, Acting, Behaviour, Intervened
from qt_jax.envs.suite_env import SuiteEnv
from qt_jax.errors import UserError
from qt_jax.policy.loaded import LoadedPolicy
from qt_jax.specs import DEMONSTRATIONS, INTERVENTION, LEARNED

JPEG_QUALITY = 95
SPLITS = {"collect": 0, "evaluate": 1}
MAX_DEMONSTRATION_TRIES = 20
SIMULATOR = "simulator"
"""`config.collect.label`: the simulator's own flag."""
BATCH = 10
"""Episodes that share one environment."""


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of `config.collect`."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initial conditions, noise and errors
    config.demonstrations = 100  # successful episodes a task
    config.demonstrator = "demonstration"  # the task's expert; or "human": slower, with pauses and detours
    config.autonomous = 200  # autonomous episodes a task
    shares = dict.fromkeys(AUTONOMOUS, 0.0) | {"noise": 1.0}
    config.mix = ml_collections.ConfigDict(shares)  # share of each kind of autonomous episode
    config.noise_scale = (0.7, 1.2)  # noise: standard deviation of an action's, drawn for each episode
    config.bias_m = (0.05, 0.1)  # perception_bias: length of the error in the perceived object position
    config.stuck_after = (3, 10)  # stuck_gripper: decisions before the gripper sticks
    config.early_limit = (4, 12)  # early_limit: decisions before the time limit
    config.wander_expert = 0.35  # wander: share of the pieces in which the task's own expert acts
    config.wander_piece = (2, 6)  # wander: decisions of a piece
    config.wander_noise = 0.1  # wander: standard deviation of an action's noise
    config.human_speed = (0.5, 1.0)  # human: part of the expert's speed, drawn for each episode
    config.human_idle = 0.1  # human: share of the time in which the hand rests
    config.human_detour = 1 / 3  # human: share of the episodes with a detour
    config.policy = ""  # policy, intervention: a run, an artefact or a file of ONNX
    config.intervention_share = 0.3  # intervention: share of the pieces in which a person takes over
    config.intervention_piece = (2, 6)  # intervention: decisions of a piece
    config.decode = (
        ""  # policy, intervention: how a run's policy decides, as in config.evaluate.decode; "": greedy
    )
    # who says whether an autonomous episode succeeded; or "module:function" of yours, of a RecordedEpisode
    config.label = SIMULATOR
    config.update(how_written())
    return config


def how_written() -> ml_collections.ConfigDict:
    """Returns the defaults of `config.collect` that change no episode."""
    config = ml_collections.ConfigDict()
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
    _labeller(config)
    kinds: list[str] = []
    if config.autonomous:
        shares = np.asarray([config.mix[kind] for kind in config.mix], float)
        edges = np.round(np.cumsum(shares) / shares.sum() * config.autonomous).astype(int)
        for kind, count in zip(config.mix, np.diff(edges, prepend=0)):
            kinds += [kind] * int(count)
    collectors = [config.demonstrator] * config.demonstrations + kinds

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
    if config.demonstrator not in DEMONSTRATIONS:
        problems.append(
            f"config.collect.demonstrator is {config.demonstrator!r}, expected one of {DEMONSTRATIONS}"
        )
    problems += [
        f"config.collect.{key} is {config[key]}, expected a share in [0, 1]"
        for key in ("wander_expert", "intervention_share", "human_detour", "human_idle")
        if not 0 <= config[key] <= 1
    ]
    acting = [kind for kind in LEARNED if config.autonomous and config.mix.get(kind)]
    if acting and not config.policy:
        problems.append(
            f"config.collect.mix has a share of {acting[0]!r} and config.collect.policy is '', expected the "
            "directory of a run, or an artefact of `export`"
        )
    if config.autonomous and not sum(config.mix.values()) > 0:
        problems.append(
            "config.collect.mix sums to 0, expected at least one kind of autonomous episode with a positive "
            "share"
        )
    if problems:
        raise UserError("; ".join(problems) + ".")


def collect_episodes(
    config: Any, plans: list[EpisodePlan], policy: LoadedPolicy | None = None
) -> list[RecordedEpisode]:
    """Runs episodes of one task. The same plan gives the same episode.

    Args:
        config: the whole experiment's; `env` and `collect` are used.
        plans: all of one task.
        policy: that acts in those of the collectors `LEARNED`.

    Raises:
        UserError: if the expert fails `MAX_DEMONSTRATION_TRIES` times in a row, or `config.collect.label`
            gives an episode no label.
    """
    env = suites.of(config).Environment(plans[0].task, config.env)  # slower to make than an episode is to run
    try:
        return [_collect(env, config, plan, policy) for plan in plans]
    finally:
        env.close()


def _collect(env: SuiteEnv, config: Any, plan: EpisodePlan, policy: LoadedPolicy | None) -> RecordedEpisode:
    """Repeats a demonstration from new initial conditions until it succeeds.

    So does a person, who keeps the successful ones alone.
    """
    suite = suites.of(config)
    place = suite.TASKS.index(plan.task)
    for attempt in range(MAX_DEMONSTRATION_TRIES):
        sequence = episode_seed("collect", config.collect.seed, place, plan.index, attempt)
        rng = np.random.default_rng(sequence.spawn(1)[0])
        behaviour: Behaviour
        if plan.collector in LEARNED:
            assert policy is not None
            instruction = str(rng.choice(suite.INSTRUCTIONS[plan.task]))
            behaviour = Acting(policy, instruction, plan.index)
            if plan.collector == INTERVENTION:
                behaviour = Intervened(behaviour, config, plan.task, rng)
        else:
            instruction = ""  # drawn after the episode: the order of the draws fixes what a dataset holds
            behaviour = behaviours.scripted(config, plan.collector, plan.task, rng)
        episode = _rollout(env, behaviour, plan, environment_seed(sequence))
        instruction = instruction or str(rng.choice(suite.INSTRUCTIONS[plan.task]))
        if episode.success or plan.collector not in DEMONSTRATIONS:
            dt = suite.decision_dt(config.env, plan.task)
            episode = dataclasses.replace(episode, instruction=instruction, dt=dt)
            return episode if plan.collector in DEMONSTRATIONS else _labelled(config.collect, episode)
    raise UserError(
        f"Demonstrations of {plan.task!r} by config.collect.demonstrator={plan.collector!r} failed "
        f"{MAX_DEMONSTRATION_TRIES} times in a row within config.env.max_decisions="
        f"{config.env.max_decisions}; allow more decisions or a smaller config.env.action_repeat."
    )


def _rollout(env: SuiteEnv, behaviour: Behaviour, plan: EpisodePlan, seed: int) -> RecordedEpisode:
    """Runs the episode; its instruction and dt are still to be filled in."""
    limit = {} if behaviour.max_decisions is None else {"max_decisions": behaviour.max_decisions}
    observation, _ = env.reset(seed=seed, options=limit)
    images: dict[str, list[bytes]] = {name: [_jpeg(image)] for name, image in observation["images"].items()}
    states, actions, rewards, by_person = [observation["state"]], [], [], []

    terminated = truncated = False
    while not (terminated or truncated):
        action = behaviour(env.simulator_state, observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        by_person.append(behaviour.by_person)
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
        intervention=np.asarray(by_person, bool),
    )


def _labeller(config: ml_collections.ConfigDict) -> Callable[[RecordedEpisode], bool] | None:
    """Returns the function of a user's own that labels episodes; None: the simulator does."""
    return plugins.find("config.collect.label", config.label, {SIMULATOR: None})


def _labelled(config: ml_collections.ConfigDict, episode: RecordedEpisode) -> RecordedEpisode:
    """Returns the episode with the success that `config.collect.label` says, and its rewards."""
    label = _labeller(config)
    if label is None:
        return episode
    success = label(episode)
    if not isinstance(success, (bool, np.bool_)):
        raise UserError(
            f"config.collect.label={config.label!r} gives {success!r} of episode {episode.episode_id}; "
            "expected True or False."
        )
    rewards = rewards_of(len(episode.actions), bool(success), None)
    return dataclasses.replace(episode, success=bool(success), rewards=rewards)


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
