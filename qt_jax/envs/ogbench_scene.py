"""OGBench's `scene` (Park et al. 2024, arXiv:2410.20092) as a suite of language-conditioned tasks.

One scene holds a drawer, a window, two buttons and a cube. All tasks start alike, so that only the
instruction tells what to do. Success is OGBench's, of the one object that the instruction names; tasks,
starts and sentences are this project's.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_collections
import numpy as np

from qt_jax.envs import gl, suite_env
from qt_jax.envs.ogbench_simulators import CAMERA, OGBenchEnv
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
PLAY = None
STYLES: dict[str, tuple[str, ...]] = {}

DRAWER_SLIDE = {"drawer-open": -0.16, "drawer-close": 0.0}
WINDOW_SLIDE = {"window-open": 0.2, "window-close": 0.0}
BUTTON = {"right-button": 0, "left-button": 1}
CUBE_XYZ = {"cube-left": (0.375, 0.15, 0.02), "cube-right": (0.375, -0.05, 0.02)}
REACHED_M = 0.04
"""How far drawer, window and cube may be from their goals; OGBench's tolerance."""

START = {"drawer": (-0.1, -0.06), "window": (0.08, 0.12), "cube": ((0.33, 0.03), (0.42, 0.07))}
"""Ranges of the starts, each some way from the goals of both of its tasks."""

HOME = (0.425, 0.0, 0.3)
"""Where an oracle goes when its object is at its goal; only the oracle of another task comes to see that."""

STATE_DESCRIPTIONS = {
    "full": (
        40,
        "OGBench's 40 numbers: arm joints and their speeds, hand pose, gripper; cube pose, buttons, drawer, "
        "window",
    ),
    "proprioception": (
        19,
        "OGBench's numbers of the arm: joints and their speeds, hand pose, gripper; no object",
    ),
    "none": (0, "no state vector"),
}


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of `config.env`."""
    config = ml_collections.ConfigDict()
    config.suite = "ogbench_scene"  # or "metaworld", or "module:name" of yours
    config.tasks = ("all",)  # names of tasks; "all" stands for the eight
    config.cameras = ()  # ("front",): images are rendered
    config.image_size = 96  # pixels, square
    config.state = "full"  # or "proprioception", of the arm alone
    config.action_repeat = 1  # control periods of one decision
    config.max_decisions = 60  # time limit of an episode
    config.bins = 64  # of each action dim
    return config


def suite_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the tasks of some names; "all" stands for all of them.

    Raises:
        UserError: for another name.
    """
    return suite_env.tasks_named(names, {"all": TASKS}, TASKS)


def action_spec(config: ml_collections.ConfigDict) -> ActionSpec:
    """Returns the spec of an action: changes in a control period, all in [-1, 1].

    Of the hand's position (a 1 is 5 cm), its yaw (a 1 is 0.3 rad), and the gripper (towards 1 it closes).
    """
    return ActionSpec(("x", "y", "z", "yaw", "grip"), (-1.0,) * 5, (1.0,) * 5, (config.bins,) * 5)


def observation_spec(config: ml_collections.ConfigDict) -> ObservationSpec:
    """Returns the spec of OGBench's front camera and of the state that `config.state` names."""
    return suite_env.observation_spec(config, CAMERA, STATE_DESCRIPTIONS)


def decision_dt(config: ml_collections.ConfigDict, task: str) -> float:
    """Returns the seconds that a decision is held, alike for all tasks."""
    return SIMULATOR_STEP_S * config.action_repeat


class Environment(OGBenchEnv):
    """One task in OGBench's scene; `simulator_state` is OGBench's `info`, with the places of both buttons."""

    def __init__(self, task: str, config: ml_collections.ConfigDict):
        (self.task,) = suite_tasks((task,))
        specs = action_spec(config), observation_spec(config)
        super().__init__(
            "scene", _new_scene, INSTRUCTIONS[self.task][0], config, *specs, config.action_repeat
        )

    def _begin(self, seed: int | None) -> None:
        _, self.simulator_state = self._simulator.reset(seed=seed)

    def _simulate(self, action: np.ndarray) -> bool:
        *_, self.simulator_state = self._simulator.step(np.clip(action, -1.0, 1.0))
        return succeeded(self.task, self.simulator_state)


def _new_scene() -> Any:
    return _scene_class()(env_type="scene", mode="data_collection", visualize_info=False)


@functools.cache
def _scene_class() -> type:
    scene_env: Any = gl.import_simulator("ogbench.manipspace.envs.scene_env").SceneEnv

    class Scene(scene_env):
        """OGBench's scene as it is for collecting data, with starts of ours and nothing locked."""

        def set_new_target(self, return_info: bool = True) -> None:
            """Sets our starts; OGBench calls it at the end of a reset, with the scene drawn at random."""
            self._cur_button_states[:] = 1  # unlocked
            self._apply_button_states()
            self.data.joint("drawer_slide").qpos[0] = self.np_random.uniform(*START["drawer"])
            self.data.joint("window_slide").qpos[0] = self.np_random.uniform(*START["window"])
            self.data.joint("object_joint_0").qpos[:2] = self.np_random.uniform(*START["cube"])
            # The marker of the cube's goal goes under the floor: it would give a task away.
            self.data.mocap_pos[self._cube_target_mocap_ids[0]] = (0, 0, -0.3)

        def add_object_info(self, ob_info: dict[str, Any]) -> None:
            """Adds the places of both buttons' tops."""
            super().add_object_info(ob_info)
            for button, site in enumerate(self._button_site_ids):
                ob_info[f"privileged/button_{button}_top_pos"] = self.data.site_xpos[site].copy()

    return Scene


def succeeded(task: str, info: dict[str, Any]) -> bool:
    """Returns whether the task is done in the state that OGBench's `info` describes."""
    if task in BUTTON:
        return bool(info[f"privileged/button_{BUTTON[task]}_state"] == 0)
    if task in CUBE_XYZ:
        return bool(np.linalg.norm(info["privileged/block_0_pos"] - CUBE_XYZ[task]) <= REACHED_M)
    place, goal = ("drawer", DRAWER_SLIDE) if task in DRAWER_SLIDE else ("window", WINDOW_SLIDE)
    return bool(abs(info[f"privileged/{place}_pos"][0] - goal[task]) <= REACHED_M)


class Expert:
    """OGBench's Markov oracle of the task's object, which gets the task's goal."""

    def __init__(self, task: str):
        self._task = task
        kind = (
            "drawer" if task in DRAWER_SLIDE
            else "window" if task in WINDOW_SLIDE
            else "button" if task in BUTTON
            else "cube"
        )  # fmt: skip
        module = gl.import_simulator(f"ogbench.manipspace.oracles.markov.{kind}_markov")
        self._oracle = getattr(module, f"{kind.capitalize()}MarkovOracle")(env=None)
        # In place of its reset, which draws from numpy's global generator where to go when all is done.
        self._oracle._step, self._oracle._final_pos, self._oracle._final_yaw = 0, np.asarray(HOME), 0.0

    def __call__(self, simulator_state: dict[str, Any]) -> np.ndarray:
        """Returns an action, float32 [5]."""
        action = self._oracle.select_action(None, simulator_state | goal(self._task, simulator_state))
        return np.asarray(action, np.float32)


def goal(task: str, info: dict[str, Any]) -> dict[str, Any]:
    """Returns a task's goal as OGBench's oracles read it from their `info`."""
    if task in DRAWER_SLIDE:
        travel = DRAWER_SLIDE[task] - info["privileged/drawer_pos"][0]
        entries = {"drawer_handle_pos": info["privileged/drawer_handle_pos"] + (0.0, -travel, 0.0)}
    elif task in WINDOW_SLIDE:
        travel = WINDOW_SLIDE[task] - info["privileged/window_pos"][0]
        entries = {"window_handle_pos": info["privileged/window_handle_pos"] + (travel, 0.0, 0.0)}
    elif task in BUTTON:
        top = info[f"privileged/button_{BUTTON[task]}_top_pos"]
        entries = {"button": BUTTON[task], "button_state": 0, "button_top_pos": top}
    else:
        place, yaw = np.asarray(CUBE_XYZ[task]), info["privileged/block_0_yaw"]
        entries = {"block": 0, "block_pos": place, "block_yaw": yaw}
    return {f"privileged/target_{name}": value for name, value in entries.items()}


def misperceived(simulator_state: dict[str, Any], bias: np.ndarray) -> dict[str, Any]:
    """Returns the `info` with every object moved by `bias` [3], in metres."""
    objects = ("block_0", "drawer_handle", "window_handle", "button_0_top", "button_1_top")
    keys = [f"privileged/{name}_pos" for name in objects]
    return simulator_state | {key: simulator_state[key] + bias for key in keys}
