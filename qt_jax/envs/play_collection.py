"""Collection of play: episodes without a task, recorded by a suite's own scripted policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from qt_jax.data import play
from qt_jax.data.recorded import RecordedEpisode
from qt_jax.envs import collectors, suites
from qt_jax.envs.collectors import EpisodePlan
from qt_jax.errors import UserError

MAX_TRIES = 20
"""Recordings of an episode in a row that a suite may throw away."""
HELD_OUT = 10
"""There is one episode of validation for so many of training, as in OGBench."""
BATCH = 5
"""Episodes of a unit of work."""


@dataclasses.dataclass(frozen=True)
class Play:
    """What a suite of play has.

    steps: transitions of an episode.
    dt: seconds that an action is held.
    record: (config.env, seed) -> states [steps + 1, S] and actions [steps, D], float32; None: an episode that
        is not kept.
    rewards: of its tasks.
    """

    steps: int
    dt: float
    record: Callable[[Any, int], tuple[np.ndarray, np.ndarray] | None]
    rewards: play.Rewards


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of `config.collect` for a suite of play."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # of starts, and of what the scripted policies draw
    config.transitions = 1_000_000  # of training; a tenth as many beside them are the split "validation"
    config.update(collectors.how_written())
    return config


def plan_episodes(config: ml_collections.ConfigDict, suite_play: Play) -> dict[str, list[list[EpisodePlan]]]:
    """Plans all episodes of play, {split: batches}; the last of training may make it more transitions.

    Args:
        config: `config.collect`.
        suite_play: the suite's.

    Raises:
        UserError: for a number that is out of range.
    """
    for key, least in {"transitions": 1, "seed": 0, "workers": 1}.items():
        if config[key] < least:
            raise UserError(f"config.collect.{key} is {config[key]}, expected {least} or more.")
    count = -(-config.transitions // suite_play.steps)
    plans = [EpisodePlan(play.TASK, play.TASK, index) for index in range(count + count // HELD_OUT)]
    splits = {"train": plans[:count], "validation": plans[count:]}
    return {
        split: [own[start : start + BATCH] for start in range(0, len(own), BATCH)]
        for split, own in splits.items()
        if own
    }


def collect_episodes(config: Any, plans: list[EpisodePlan]) -> list[RecordedEpisode]:
    """Records episodes of play. The same plan gives the same episode.

    Args:
        config: the whole experiment's; `env` and `collect` are used.
        plans: of episodes of play.

    Raises:
        UserError: if the suite throws `MAX_TRIES` recordings of an episode away.
    """
    return [_recorded(config, plan) for plan in plans]


def _recorded(config: Any, plan: EpisodePlan) -> RecordedEpisode:
    suite = suites.of(config)
    for attempt in range(MAX_TRIES):
        sequence = collectors.episode_seed("collect", config.collect.seed, 0, plan.index, attempt)
        if (found := suite.PLAY.record(config.env, collectors.environment_seed(sequence))) is None:
            continue
        states, actions = found
        return RecordedEpisode(
            task=plan.task,
            collector=plan.collector,
            index=plan.index,
            instruction=play.TASK,
            images={},
            state=states,
            actions=actions,
            rewards=np.zeros(len(actions), np.float32),
            success=False,
            dt=suite.PLAY.dt,
        )
    raise UserError(
        f"Episode {plan.index} of play was thrown away {MAX_TRIES} times in a row with config.collect.seed="
        f"{config.collect.seed}; give another seed."
    )
