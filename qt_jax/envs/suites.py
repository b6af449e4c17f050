"""The suite of tasks that `config.env.suite` names: a module of this room.

A suite has `get_config`, `suite_tasks` (of names), `TASKS` (all; their places seed episodes), `INSTRUCTIONS` {task: sentences, the first is
evaluation's}, `SHARED_SCENES` (pairs that only the instruction tells apart), `STATE_HAS_GOAL` (kinds of state that hold one task's goal),
`ONE_SCENE` (whose simulators serve all tasks), `action_spec`, `observation_spec`, `decision_dt`, `Environment` (a SuiteEnv), `Expert`
(privileged state -> action), `misperceived`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import ml_collections

from qt_jax.data import standardisers
from qt_jax.data.specs import DatasetSpec
from qt_jax.errors import UserError

SUITES = ("metaworld", "ogbench_scene")


def of(config: ml_collections.ConfigDict) -> ModuleType:
    """The suite of an experiment's config.

    Raises:
        UserError: for one that there is not.
    """
    if config.env.suite not in SUITES:
        raise UserError(f"config.env.suite is {config.env.suite!r}; expected one of {', '.join(SUITES)}.")
    return importlib.import_module(f"qt_jax.envs.{config.env.suite}")


def dataset_spec(config: ml_collections.ConfigDict) -> DatasetSpec:
    """Of what `collect` writes at `config.data.path`: its data must have held each task's actions as long as the environment does."""
    suite, env = of(config), config.env
    return DatasetSpec(
        path=config.data.path,
        standardise=standardisers.collected,
        action=suite.action_spec(env),
        observation=suite.observation_spec(env),
        last_record="observation",
        reward="success",
        dt=None,
        expected_dt={task: suite.decision_dt(env, task) for task in suite.suite_tasks(env.tasks)},
    )
