"""OGBench's play and its single-task benchmark (Park et al. 2024, arXiv:2410.20092) as a suite.

Each scene has five tasks, with OGBench's own starts, goals, reward, end and time limit: the reward of an
action is minus the number of subgoals that are unmet where it is taken. The data are episodes of play without
a task, by OGBench's scripted policies. Only the sentences are this project's.
"""

from __future__ import annotations

import functools

import ml_collections
import numpy as np

from qt_jax.envs import ogbench_goals, ogbench_oracles, ogbench_simulators, suite_env
from qt_jax.envs.ogbench_goals import SCENES
from qt_jax.envs.ogbench_simulators import CAMERA, OGBenchEnv
from qt_jax.envs.play_collection import Play
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec

SIMULATOR_STEP_S = 0.05
"""OGBench's control period."""

INSTRUCTIONS = {task: (goal.instruction,) for task, goal in ogbench_goals.GOALS.items()}
"""One sentence a task. Left, right and far are the robot's."""
TASKS = tuple(INSTRUCTIONS)
SHARED_SCENES = ()
STATE_HAS_GOAL = ()
ONE_SCENE = True


def _record(config: ml_collections.ConfigDict, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    return ogbench_oracles.episode(scene_of(config), seed)


PLAY = Play(ogbench_oracles.STEPS, SIMULATOR_STEP_S, _record, ogbench_goals.rewards)


def get_config(scene: str = "scene") -> ml_collections.ConfigDict:
    """Returns the defaults of `config.env` for one of the scenes."""
    config = ml_collections.ConfigDict()
    config.suite = "ogbench_play"  # or another (qt_jax/envs/suites.py)
    config.tasks = (scene,)  # a scene, which stands for its five tasks; or some of them, "scene-task2"
    config.cameras = ()  # none: OGBench's sets of images are others
    config.image_size = 96  # pixels of nothing but the report's videos
    config.state = "full"  # OGBench's observation
    config.action_repeat = 1  # control periods of one decision; its action is the mean of those in the data
    config.max_decisions = SCENES[scene].limit  # OGBench's time limit of an episode
    config.bins = 64  # of each action dim
    return config


def suite_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the tasks of some names; a scene stands for its five.

    Raises:
        UserError: for another name, or tasks of two scenes.
    """
    groups = {scene: tuple(task for task in TASKS if _scene_name(task) == scene) for scene in SCENES}
    chosen = suite_env.tasks_named(names, groups, TASKS)
    if len(scenes := sorted(set(map(_scene_name, chosen)))) > 1:
        raise UserError(f"config.env.tasks={tuple(names)} is of {scenes}; expected tasks of one scene.")
    return chosen


def scene_of(config: ml_collections.ConfigDict) -> str:
    """Returns the scene of `config.env.tasks`."""
    return _scene_name(suite_tasks(config.tasks)[0])


def _scene_name(task: str) -> str:
    return task.rpartition("-")[0]


def action_spec(config: ml_collections.ConfigDict) -> ActionSpec:
    """Returns the spec of an action: changes in a control period, all in [-1, 1].

    Of the hand's position (a 1 is 5 cm), its yaw (a 1 is 0.3 rad), and the gripper (towards 1 it closes).
    """
    return ActionSpec(("x", "y", "z", "yaw", "grip"), (-1.0,) * 5, (1.0,) * 5, (config.bins,) * 5)


def observation_spec(config: ml_collections.ConfigDict) -> ObservationSpec:
    """Returns the spec of OGBench's observation of the scene.

    Raises:
        UserError: for cameras, or another state than "full".
    """
    if config.cameras:
        raise UserError(
            f"config.env has cameras={tuple(config.cameras)}; OGBench's play has states alone: give ()."
        )
    scene = SCENES[scene_of(config)]
    return suite_env.observation_spec(config, CAMERA, {"full": (scene.state_dim, scene.description)})


def decision_dt(config: ml_collections.ConfigDict, task: str) -> float:
    """Returns the seconds that a decision is held, alike for all tasks."""
    return SIMULATOR_STEP_S * config.action_repeat


class Environment(OGBenchEnv):
    """One of OGBench's tasks; `simulator_state` is OGBench's `info`.

    As in OGBench's single-task environments an episode ends with the action after the one that solves the
    task, and each reward is that of the state before. A decision has the reward of its first control period.
    """

    def __init__(self, task: str, config: ml_collections.ConfigDict):
        (self.task,) = suite_tasks((task,))
        name = _scene_name(self.task)
        make_scene = functools.partial(ogbench_simulators.make, SCENES[name], mode="task")
        specs = action_spec(config), observation_spec(config)
        super().__init__(
            f"{name}-play", make_scene, INSTRUCTIONS[self.task][0], config, *specs, config.action_repeat
        )

    def _begin(self, seed: int | None) -> None:
        self._simulator._reward_task_id = int(self.task[-1])
        self._rewards: list[float] = []
        _, self.simulator_state = self._simulator.reset(seed=seed)

    def step(self, action: np.ndarray):
        """See `SuiteEnv.step`."""
        self._rewards = []
        return super().step(action)

    def _simulate(self, action: np.ndarray) -> bool:
        _, reward, terminated, _, self.simulator_state = self._simulator.step(np.clip(action, -1.0, 1.0))
        self._rewards.append(reward)
        return bool(terminated)

    def _reward(self, success: bool) -> float:
        return self._rewards[0]
