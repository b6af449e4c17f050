"""The suite of tasks that `config.env.suite` names: a module here, or a user's (examples/my_suite.py).

A suite is a module with these names:
    get_config: the defaults of `config.env`.
    suite_tasks: the tasks that some names stand for.
    TASKS: all of its tasks; a task's place in it seeds its episodes.
    INSTRUCTIONS: {task: sentences}; evaluation uses the first.
    SHARED_SCENES: pairs of tasks that only the instruction tells apart.
    STATE_HAS_GOAL: the values of `config.env.state` whose vector holds the goal of one task.
    ONE_SCENE: whether a simulator of one task serves all tasks.
    action_spec, observation_spec, decision_dt: what the network and its controller need.
    Environment: a `SuiteEnv`.
    PLAY: a `play_collection.Play` of a suite whose data have no task, or None. Only where it is None:
    Expert: a scripted policy, from the simulator's state to an action.
    misperceived: the simulator's state with its objects elsewhere.
    STYLES: {task: other tasks whose experts do it too}, in which people differ; {}: none.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import ml_collections

from qt_jax import plugins
from qt_jax.data import play, standardisers
from qt_jax.data.specs import DatasetSpec

SUITES = ("metaworld", "ogbench_scene", "ogbench_play")
NEEDS = (
    "get_config", "suite_tasks", "TASKS", "INSTRUCTIONS", "SHARED_SCENES", "STATE_HAS_GOAL", "ONE_SCENE",
    "action_spec", "observation_spec", "decision_dt", "Environment", "PLAY",
)  # fmt: skip
OF_TASKS = ("Expert", "misperceived", "STYLES")
"""What a suite needs whose `PLAY` is None."""


def of(config: ml_collections.ConfigDict) -> ModuleType:
    """Returns the suite of an experiment's config.

    Raises:
        UserError: for an unknown suite, or a user's module that lacks one of `NEEDS`.
    """
    if config.env.suite in SUITES:  # imported when it is named: a machine may have one simulator alone
        return importlib.import_module(f"qt_jax.envs.{config.env.suite}")
    find = functools.partial(plugins.find, "config.env.suite", config.env.suite, dict.fromkeys(SUITES))
    suite = find(NEEDS)
    return suite if suite.PLAY else find(OF_TASKS)


def dataset_spec(config: ml_collections.ConfigDict) -> DatasetSpec:
    """Returns the spec of what `collect` writes at `config.data.path`.

    Its `expected_dt` refuses data whose actions were held for another time than the environment holds them.
    Episodes of play are those of each of `config.env.tasks`, in decisions of `config.env.action_repeat`.
    """
    suite, env = of(config), config.env
    tasks, pieces = suite.suite_tasks(env.tasks), None
    held_s = {task: suite.decision_dt(env, task) for task in tasks}
    if suite.PLAY:
        sentences = {task: suite.INSTRUCTIONS[task][0] for task in tasks}
        held_s = {play.TASK: suite.PLAY.dt}
        pieces = play.Tasks(sentences, suite.PLAY.rewards, env.action_repeat)
    return DatasetSpec(
        path=config.data.path,
        standardise=standardisers.collected,
        action=suite.action_spec(env),
        observation=suite.observation_spec(env),
        last_record="observation",
        reward="success",
        dt=None,
        expected_dt=held_s,
        pieces=pieces,
    )
