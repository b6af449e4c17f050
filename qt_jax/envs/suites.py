"""The suite of tasks that `config.env.suite` names: a module of this room, or of a user's
(examples/my_suite.py).

A suite has `get_config`, `suite_tasks` (of names), `TASKS` (all; their places seed episodes), `INSTRUCTIONS`
{task: sentences, the first is evaluation's}, `SHARED_SCENES` (pairs that only the instruction tells apart),
`STATE_HAS_GOAL` (kinds of state that hold one task's goal), `ONE_SCENE` (whose simulators serve all tasks),
`action_spec`, `observation_spec`, `decision_dt`, `Environment` (a SuiteEnv), `Expert` (privileged state ->
action), `misperceived`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import ml_collections

from qt_jax import plugins
from qt_jax.data import standardisers
from qt_jax.data.specs import DatasetSpec

SUITES = ("metaworld", "ogbench_scene")
NEEDS = (
    "get_config", "suite_tasks", "TASKS", "INSTRUCTIONS", "SHARED_SCENES", "STATE_HAS_GOAL", "ONE_SCENE", "action_spec",
    "observation_spec", "decision_dt", "Environment", "Expert", "misperceived",
)  # fmt: skip


def of(config: ml_collections.ConfigDict) -> ModuleType:
    """The suite of an experiment's config.

    Raises:
        UserError: for one that there is not.

    """
    if (
        config.env.suite in SUITES
    ):  # each is imported when it is named: a machine may have one simulator alone
        return importlib.import_module(f"qt_jax.envs.{config.env.suite}")
    return plugins.find("config.env.suite", config.env.suite, dict.fromkeys(SUITES), NEEDS)


def dataset_spec(config: ml_collections.ConfigDict) -> DatasetSpec:
    """Of what `collect` writes at `config.data.path`: its data must have held each task's actions as long as
    the environment does.
    """
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
