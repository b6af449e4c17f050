"""OGBench's `scene` (Park et al.

2024) as a suite of language-conditioned tasks: one scene with a drawer, a window, two buttons and a cube, and
one distribution of starts for all tasks, so that only the instruction tells what to do. Success is as OGBench
has it, for the one object that the instruction is about; tasks, starts and sentences are this project's.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_collections
import numpy as np

from qt_jax.envs import gl, suite_env
from qt_jax.envs.suite_env import SuiteEnv
from qt_jax.specs import ActionSpec, ObservationSpec

SIMULATOR_STEP_S = 0.05
"""OGBench's control period."""

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "drawer-open": ("open the drawer", "pull the drawer out", "slide the drawer open"),
    "drawer-close": ("close the drawer", "push the drawer in", "slide the drawer shut"),
    "window-open": ("open the window", "slide the window to the open side", "move the window open"),
    "window-close": ("close the window", "slide the window shut", "move the window closed"),
    "left-button": ("press the left button", "push the button on the left", "push down the left button"),
    "right-button": ("press the right button", "push the button on the right", "push down the right button"),
    "cube-left": (
        "move the cube to the left",
        "pick up the cube and place it on the left",
        "put the block on the left side",
    ),
    "cube-right": (
        "move the cube to the right",
        "pick up the cube and place it on the right",
        "put the block on the right side",
    ),
}
"""Left and right are the robot's."""
TASKS = tuple(INSTRUCTIONS)
SHARED_SCENES = tuple(zip(TASKS[::2], TASKS[1::2]))
STATE_HAS_GOAL = ()
ONE_SCENE = True

DRAWER_SLIDE = {"drawer-open": -0.16, "drawer-close": 0.0}
WINDOW_SLIDE = {"window-open": 0.2, "window-close": 0.0}
BUTTON = {"right-button": 0, "left-button": 1}
CUBE_XYZ = {"cube-left": (0.375, 0.15, 0.02), "cube-right": (0.375, -0.05, 0.02)}
REACHED_M = 0.04
"""Of drawer, window and cube from where they are to be; OGBench's."""

START = {"drawer": (-0.1, -0.06), "window": (0.08, 0.12), "cube": ((0.33, 0.03), (0.42, 0.07))}
"""Ranges from which starts are drawn, each some way from the goals of both of its tasks."""

HOME = (0.425, 0.0, 0.3)
"""Where an oracle goes when its object is where it should be: only another task's sees that."""

CAMERA = "front"
STATE_DESCRIPTIONS = {
    "full": (
        40,
        "OGBench's 40 numbers: arm joints and their speeds, hand pose, gripper; cube pose, buttons, drawer, window",
    ),
    "proprioception": (
        19,
        "OGBench's numbers of the arm: joints and their speeds, hand pose, gripper; no object",
    ),
    "none": (0, "no state vector"),
}


def get_config() -> ml_collections.ConfigDict:
    """Defaults of this project."""
    config = ml_collections.ConfigDict()
    config.suite = "ogbench_scene"  # or "metaworld"
    config.tasks = ("all",)  # names of tasks; "all" stands for the eight
    config.cameras = ()  # ("front",): images are rendered
    config.image_size = 96  # pixels, square
    config.state = "full"  # or "proprioception", of the arm alone
    config.action_repeat = 1  # control periods of one decision
    config.max_decisions = 60  # time limit of an episode
    config.bins = 64  # of each action dim
    return config


def suite_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Tasks by name; "all" stands for all of them. Raises a UserError for a name that is none."""
    return suite_env.tasks_named(names, {"all": TASKS}, TASKS)


def action_spec(config: ml_collections.ConfigDict) -> ActionSpec:
    """Change of hand position (unit: 5 cm), of yaw (.3 rad) and of gripper opening (closes towards 1) in a
    control period, in [-1, 1].
    """
    return ActionSpec(("x", "y", "z", "yaw", "grip"), (-1.0,) * 5, (1.0,) * 5, (config.bins,) * 5)


def observation_spec(config: ml_collections.ConfigDict) -> ObservationSpec:
    return suite_env.observation_spec(config, CAMERA, STATE_DESCRIPTIONS)


def decision_dt(config: ml_collections.ConfigDict, task: str) -> float:
    """Seconds that one decision is held."""
    return SIMULATOR_STEP_S * config.action_repeat


class Environment(SuiteEnv):
    """One task in OGBench's scene. Privileged state: OGBench's `info`, with the places of both buttons."""

    def __init__(self, task: str, config: ml_collections.ConfigDict):
        (self.task,) = suite_tasks((task,))
        scene = (
            _CLOSED.pop()
            if _CLOSED
            else _scene_class()(env_type="scene", mode="data_collection", visualize_info=False)
        )
        super().__init__(
            INSTRUCTIONS[self.task][0],
            scene,
            config,
            action_spec(config),
            observation_spec(config),
            config.action_repeat,
        )

    def _begin(self, seed: int | None) -> None:
        _, self.simulator_state = self._simulator.reset(seed=seed)

    def _simulate(self, action: np.ndarray) -> bool:
        *_, self.simulator_state = self._simulator.step(np.clip(action, -1.0, 1.0))
        return succeeded(self.task, self.simulator_state)

    def _state(self) -> np.ndarray:
        return self._simulator.compute_observation()

    def _camera(self) -> Any:
        return CAMERA

    def close(self) -> None:
        super().close()
        _CLOSED.append(self._simulator)


_CLOSED: list[Any] = []
"""Compiled scenes that no environment uses. They are all alike, whatever the task, and take seconds to make.
"""


@functools.cache
def _scene_class() -> type:
    scene_env = gl.import_simulator("ogbench.manipspace.envs.scene_env")

    class Scene(scene_env.SceneEnv):
        """OGBench's scene as it is for collecting data, with starts of ours and nothing locked."""

        def set_new_target(self, return_info: bool = True) -> None:
            """OGBench calls it at the end of a reset, with the scene drawn at random."""
            self._cur_button_states[:] = 1  # unlocked
            self._apply_button_states()
            self.data.joint("drawer_slide").qpos[0] = self.np_random.uniform(*START["drawer"])
            self.data.joint("window_slide").qpos[0] = self.np_random.uniform(*START["window"])
            self.data.joint("object_joint_0").qpos[:2] = self.np_random.uniform(*START["cube"])
            self.data.mocap_pos[self._cube_target_mocap_ids[0]] = (
                0,
                0,
                -0.3,
            )  # under the floor: no marker gives a task away

        def add_object_info(self, ob_info: dict[str, Any]) -> None:
            super().add_object_info(ob_info)
            for button, site in enumerate(self._button_site_ids):
                ob_info[f"privileged/button_{button}_top_pos"] = self.data.site_xpos[site].copy()

    return Scene


def succeeded(task: str, info: dict[str, Any]) -> bool:
    """Whether OGBench's `info` is of a state in which the task is done."""
    if task in BUTTON:
        return bool(info[f"privileged/button_{BUTTON[task]}_state"] == 0)
    if task in CUBE_XYZ:
        return bool(np.linalg.norm(info["privileged/block_0_pos"] - CUBE_XYZ[task]) <= REACHED_M)
    place, goal = ("drawer", DRAWER_SLIDE) if task in DRAWER_SLIDE else ("window", WINDOW_SLIDE)
    return bool(abs(info[f"privileged/{place}_pos"][0] - goal[task]) <= REACHED_M)


class Expert:
    """OGBench's Markov oracle for the task's object, told the task's goal."""

    def __init__(self, task: str):
        self._task = task

        def oracles(name):
            return gl.import_simulator(f"ogbench.manipspace.oracles.markov.{name}_markov")

        if task in DRAWER_SLIDE:
            self._oracle = oracles("drawer").DrawerMarkovOracle(env=None)
        elif task in WINDOW_SLIDE:
            self._oracle = oracles("window").WindowMarkovOracle(env=None)
        elif task in BUTTON:
            self._oracle = oracles("button").ButtonMarkovOracle(env=None)
        else:
            self._oracle = oracles("cube").CubeMarkovOracle(env=None)
        # In place of its reset, which draws from numpy's global generator where to go when all is done.
        self._oracle._step, self._oracle._final_pos, self._oracle._final_yaw = 0, np.asarray(HOME), 0.0

    def __call__(self, simulator_state: dict[str, Any]) -> np.ndarray:
        return np.float32(
            self._oracle.select_action(None, simulator_state | goal(self._task, simulator_state))
        )


def goal(task: str, info: dict[str, Any]) -> dict[str, Any]:
    """What OGBench's oracles are told of their goal."""
    if task in DRAWER_SLIDE:
        travel = DRAWER_SLIDE[task] - info["privileged/drawer_pos"][0]
        return {
            "privileged/target_drawer_handle_pos": info["privileged/drawer_handle_pos"] + (0.0, -travel, 0.0)
        }
    if task in WINDOW_SLIDE:
        travel = WINDOW_SLIDE[task] - info["privileged/window_pos"][0]
        return {
            "privileged/target_window_handle_pos": info["privileged/window_handle_pos"] + (travel, 0.0, 0.0)
        }
    if task in BUTTON:
        top = info[f"privileged/button_{BUTTON[task]}_top_pos"]
        told = {"target_button": BUTTON[task], "target_button_state": 0, "target_button_top_pos": top}
        return {f"privileged/{name}": value for name, value in told.items()}
    told = {
        "target_block": 0,
        "target_block_pos": np.asarray(CUBE_XYZ[task]),
        "target_block_yaw": info["privileged/block_0_yaw"],
    }
    return {f"privileged/{name}": value for name, value in told.items()}


def misperceived(simulator_state: dict[str, Any], bias: np.ndarray) -> dict[str, Any]:
    """The `info` with every object `bias` [3], in metres, from where it is."""
    objects = ("block_0", "drawer_handle", "window_handle", "button_0_top", "button_1_top")
    return simulator_state | {
        key: simulator_state[key] + bias for key in (f"privileged/{name}_pos" for name in objects)
    }
