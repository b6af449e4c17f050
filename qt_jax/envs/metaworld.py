"""Meta-World v3 (Yu et al. 2019) as a suite of language-conditioned tasks with sparse rewards.

Each decision is held for several simulator steps.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import ml_collections
import numpy as np

from qt_jax.envs import gl, suite_env
from qt_jax.envs import metaworld_tasks as tasks
from qt_jax.envs.suite_env import SuiteEnv
from qt_jax.specs import ActionSpec, ObservationSpec

SIMULATOR_STEP_S = 0.0125
"""Seconds of one simulator step: MuJoCo's 2.5 ms times Meta-World's frame skip of 5."""

TASKS, INSTRUCTIONS = tasks.MT50, tasks.INSTRUCTIONS
SHARED_SCENES, STYLES = tasks.SHARED_SCENES, tasks.STYLES
STATE_HAS_GOAL = ("full",)
ONE_SCENE = False
PLAY = None
CAMERA = "front"
MARKER_RGBA = (0.1, 0.8, 0.2, 1.0)

STATE_DESCRIPTIONS = {
    "full": (
        39,
        "Meta-World's 39 numbers: hand xyz, gripper opening, object poses (now, one simulator step ago), "
        "goal xyz",
    ),
    "proprioception": (4, "hand xyz and gripper opening; no object pose, no goal"),
    "none": (0, "no state vector"),
}


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults of `config.env`; `experiments/` override them."""
    config = ml_collections.ConfigDict()
    config.suite = "metaworld"  # or "ogbench_scene", or "module:name" of yours
    config.tasks = ("mt10",)  # names of tasks; "mt10" and "mt50" stand for theirs
    config.cameras = (CAMERA,)  # (): no images are rendered
    config.image_size = 96  # pixels, square
    config.state = "proprioception"  # of the arm alone; or "full", with the objects
    config.action_repeat = 5  # simulator steps of one decision
    config.max_decisions = 60  # time limit of an episode
    config.bins = 64  # of each action dim
    return config


def suite_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the tasks of some names, with or without Meta-World's "-v3".

    "mt10" and "mt50" stand for Meta-World's own selections.

    Raises:
        UserError: for another name.
    """
    short = tuple(name.removesuffix("-v3") for name in names)
    return suite_env.tasks_named(short, {"mt10": tasks.MT10, "mt50": tasks.MT50}, TASKS)


def action_spec(config: ml_collections.ConfigDict) -> ActionSpec:
    """Returns the spec of an action: hand displacement in x, y, z, and effort to grip, all in [-1, 1].

    A displacement of 1 is 1 cm a simulator step; an effort of 1 closes the gripper.
    """
    return ActionSpec(("x", "y", "z", "grip"), (-1.0,) * 4, (1.0,) * 4, (config.bins,) * 4)


def observation_spec(config: ml_collections.ConfigDict) -> ObservationSpec:
    """Returns the spec of one free camera and of the state that `config.state` names."""
    return suite_env.observation_spec(config, CAMERA, STATE_DESCRIPTIONS)


def action_repeat(config: ml_collections.ConfigDict, task: str) -> int:
    """Returns how many simulator steps a decision is held: as the config says, or fewer in some tasks."""
    return min(config.action_repeat, tasks.ACTION_REPEAT.get(task, config.action_repeat))


def decision_dt(config: ml_collections.ConfigDict, task: str) -> float:
    """Returns the seconds that a decision is held."""
    return SIMULATOR_STEP_S * action_repeat(config, task)


class Environment(SuiteEnv):
    """One task of Meta-World; `simulator_state` is the 39 numbers of the last observation.

    Where a task has a shorter action repeat, its limit of decisions grows: every task has the same time.
    """

    def __init__(self, task: str, config: ml_collections.ConfigDict):
        (self.task,) = suite_tasks((task,))
        simulator = gl.import_simulator("metaworld.env_dict").ALL_V3_ENVIRONMENTS[f"{self.task}-v3"]()
        instruction, repeat = INSTRUCTIONS[self.task][0], action_repeat(config, self.task)
        super().__init__(
            instruction, simulator, config, action_spec(config), observation_spec(config), repeat
        )

        # The goal is among the 39 numbers, as in Meta-World's MT benchmarks.
        simulator._partially_observable = False
        simulator._freeze_rand_vec = False
        simulator.seeded_rand_vec = True
        simulator._set_task_called = True
        simulator.max_path_length = math.inf  # time is kept in decisions
        simulator.__dict__.pop("sawyer_observation_space", None)
        if self.task in tasks.OBJECT_RANGE:
            low, high = map(np.asarray, tasks.OBJECT_RANGE[self.task])
            simulator._random_reset_space = gymnasium.spaces.Box(low, high, dtype=np.float64)
        _recolour_markers(simulator.model, visible=self.task in tasks.GOAL_NEEDS_MARKER)

    def _begin(self, seed: int | None) -> None:
        if seed is not None:
            self._simulator.seed(seed)
        self._simulator.reset()
        self.simulator_state = self._settled_state()

    def _simulate(self, action: np.ndarray) -> bool:
        self.simulator_state, _, _, _, info = self._simulator.step(np.asarray(action, np.float32))
        return bool(info["success"])

    def _settled_state(self) -> np.ndarray:
        """Recomputes the kinematics, and returns the 39 numbers.

        Some tasks move bodies at a reset without it: the first frame and state would be of the place before.
        """
        gl.import_simulator("mujoco").mj_forward(self._simulator.model, self._simulator.data)
        for site in self._simulator._target_site_config:
            self._simulator._set_pos_site(*site)
        state = self._simulator._get_obs()
        state[18:36] = state[:18]
        self._simulator._prev_obs = state[:18].copy()
        return state

    def _state(self) -> np.ndarray:
        return self.simulator_state

    def _camera(self) -> Any:
        """Returns a free camera that shows the whole workspace."""
        camera = gl.import_simulator("mujoco").MjvCamera()
        camera.lookat[:] = (0.0, 0.62, 0.13)
        camera.distance, camera.azimuth, camera.elevation = 1.15, 150, -35
        return camera

    def close(self) -> None:
        """Frees the renderers and the simulator."""
        super().close()
        self._simulator.close()


class Expert:
    """Meta-World's scripted policy of a task, clipped to the action bounds."""

    def __init__(self, task: str):
        policies = gl.import_simulator("metaworld.policies")
        name = _POLICY_NAMES.get(task, "".join(part.capitalize() for part in task.split("-")))
        self._policy = getattr(policies, f"Sawyer{name}V3Policy")()

    def __call__(self, simulator_state: np.ndarray) -> np.ndarray:
        """Returns an action, float32 [4], of the 39 numbers."""
        return np.clip(self._policy.get_action(simulator_state), -1.0, 1.0).astype(np.float32)


_POLICY_NAMES = {"peg-insert-side": "PegInsertionSide"}


def misperceived(simulator_state: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Returns the 39 numbers with the object moved by `bias` [3], in metres."""
    state = simulator_state.copy()
    state[4:7] += bias
    return state


def _recolour_markers(model: Any, visible: bool) -> None:
    """Gives the goal's marker the colour that all tasks share, or hides it where the scene shows the goal."""
    for index in range(model.nsite):
        if "goal" in model.site(index).name:
            model.site_rgba[index] = MARKER_RGBA if visible else (0.0, 0.0, 0.0, 0.0)
