"""Meta-World v3 as a suite of language-conditioned, sparse-reward tasks with decisions held for several simulator steps."""

from __future__ import annotations

import collections
from typing import Any

import gymnasium
import ml_collections
import numpy as np

from qt_jax.data import standardisers
from qt_jax.data.specs import DatasetSpec
from qt_jax.envs import gl
from qt_jax.envs import metaworld_tasks as tasks
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec

SIMULATOR_STEP_S = 0.0125
"""Seconds of one simulator step: MuJoCo's 2.5 ms times Meta-World's frame skip of 5."""

CAMERA = "front"
MARKER_RGBA = (0.1, 0.8, 0.2, 1.0)

STATE_DESCRIPTIONS = {
    "full": (39, "Meta-World's 39 numbers: hand xyz, gripper opening, object poses (now, one simulator step ago), goal xyz"),
    "proprioception": (4, "hand xyz and gripper opening; no object pose, no goal"),
    "none": (0, "no state vector"),
}


def get_config() -> ml_collections.ConfigDict:
    """Defaults of this project; `experiments/` override them."""
    config = ml_collections.ConfigDict()
    config.tasks = ("mt10",)  # names of tasks; "mt10" and "mt50" stand for theirs
    config.cameras = (CAMERA,)  # (): no images are rendered
    config.image_size = 96  # pixels, square
    config.state = "proprioception"  # of the arm alone; or "full", with the objects
    config.action_repeat = 5  # simulator steps of one decision
    config.max_decisions = 60  # time limit of an episode
    config.bins = 64  # of each action dim
    return config


def suite_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Tasks by name (with or without Meta-World's '-v3'); 'mt10' and 'mt50' stand for theirs.

    Raises:
        UserError: for a name that is not a Meta-World task.
    """
    suites = {"mt10": tasks.MT10, "mt50": tasks.MT50}
    chosen = tuple(task for name in names for task in suites.get(name, (name.removesuffix("-v3"),)))
    unknown = [name for name in chosen if name not in tasks.INSTRUCTIONS]
    if unknown or not chosen:
        raise UserError(f"config.env.tasks has unknown tasks {unknown}; expected 'mt10', 'mt50' or some of {', '.join(tasks.MT50)}.")
    return chosen


def action_spec(config: ml_collections.ConfigDict) -> ActionSpec:
    """Hand displacement in x, y, z (unit: 1 cm a simulator step) and gripper effort, all in [-1, 1]."""
    return ActionSpec(("x", "y", "z", "gripper"), (-1.0,) * 4, (1.0,) * 4, (config.bins,) * 4)


def observation_spec(config: ml_collections.ConfigDict) -> ObservationSpec:
    if config.state not in STATE_DESCRIPTIONS:
        raise UserError(f"config.env.state is {config.state!r}; expected one of {sorted(STATE_DESCRIPTIONS)}.")
    if set(config.cameras) - {CAMERA}:
        raise UserError(f"config.env.cameras is {tuple(config.cameras)}; expected () or ({CAMERA!r},).")
    for key in ("image_size", "action_repeat", "max_decisions"):
        if config[key] < 1:
            raise UserError(f"config.env.{key} is {config[key]}; expected a positive number.")
    dim, description = STATE_DESCRIPTIONS[config.state]
    return ObservationSpec(config.cameras, (config.image_size,) * 2, dim, description)


def action_repeat(config: ml_collections.ConfigDict, task: str) -> int:
    """Simulator steps that one decision is held: the config's, or a task's own where that is finer."""
    return min(config.action_repeat, tasks.ACTION_REPEAT.get(task, config.action_repeat))


def decision_dt(config: ml_collections.ConfigDict, task: str) -> float:
    """Seconds that one decision is held."""
    return SIMULATOR_STEP_S * action_repeat(config, task)


class MetaWorldEnv(gymnasium.Env):
    """One task. The first success terminates the episode; `config.max_decisions` truncates it.

    Observations are {"images": {camera: uint8 [H, W, 3]}, "state": float32 [state_dim]}; `reset(seed=)` fixes the whole episode,
    whatever ran before; `reset(options={"max_decisions": n})` gives one episode a limit of its own. Where a per-task override
    shortens the action repeat the limit grows, so that every task has the same time.
    """

    def __init__(self, task: str, config: ml_collections.ConfigDict):
        (self.task,) = suite_tasks([task])
        self._spec = observation_spec(config)
        if self._spec.cameras:
            gl.require_backend()
        env_dict = gl.import_simulator("metaworld.env_dict")

        self._state_mode = config.state
        self._repeat = action_repeat(config, self.task)
        self._config = config
        self._env = env_dict.ALL_V3_ENVIRONMENTS[f"{self.task}-v3"]()
        self._set_limit(config.max_decisions)
        self._env._partially_observable = False  # the goal is part of the 39 numbers, as in Meta-World's MT benchmarks
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        self._env._set_task_called = True
        self._env.__dict__.pop("sawyer_observation_space", None)
        if self.task in tasks.OBJECT_RANGE:
            low, high = tasks.OBJECT_RANGE[self.task]
            self._env._random_reset_space = gymnasium.spaces.Box(np.asarray(low), np.asarray(high), dtype=np.float64)
        _recolour_markers(self._env.model, visible=self.task in tasks.GOAL_NEEDS_MARKER)
        self._renderers: dict[int, Any] = {}
        action = action_spec(config)
        self.action_space = gymnasium.spaces.Box(np.float32(action.low), np.float32(action.high))
        self.observation_space = gymnasium.spaces.Dict(
            images=gymnasium.spaces.Dict(
                {name: gymnasium.spaces.Box(0, 255, (*self._spec.image_size, 3), np.uint8) for name in self._spec.cameras}
            ),
            state=gymnasium.spaces.Box(-np.inf, np.inf, (self._spec.state_dim,), np.float32),
        )
        self._decisions = 0
        self.simulator_state = np.zeros(39)
        """The 39 numbers of the last observation; the scripted experts see these."""

    @property
    def instruction(self) -> str:
        return tasks.INSTRUCTIONS[self.task][0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        if seed is not None:
            self._env.seed(seed)
        self._set_limit((options or {}).get("max_decisions", self._config.max_decisions))
        self._env.reset()
        self.simulator_state = self._settled_state()
        self._decisions = 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray):
        """Holds `action` [4] for the task's action repeat; stops at the first simulator step that succeeds."""
        success = False
        for _ in range(self._repeat):
            success = self._simulate(action)
            if success:
                break
        self._decisions += 1
        truncated = not success and self._decisions >= self.max_decisions
        return self._observation(), float(success), success, truncated, {"success": success}

    def replay(self, seed: int, actions: np.ndarray, keep: int = 1) -> tuple[list[dict[str, Any]], bool]:
        """An episode that begins where `actions` [T, 4] lead from `reset(seed=seed)`; the time limit counts from there.

        Each action is held to its end whatever it achieves, so that tasks that share a scene come to the same state.

        Returns: the observations of the last `keep` states (fewer where there are fewer), and whether the last is a success.
        """
        first, _ = self.reset(seed=seed)
        observations, success = collections.deque([first], maxlen=keep), False
        self._env.max_path_length += len(actions) * self._repeat
        for left, action in zip(range(len(actions), 0, -1), actions):
            for _ in range(self._repeat):
                success = self._simulate(action)
            if left <= keep:
                observations.append(self._observation())
        return list(observations), success

    def _simulate(self, action: np.ndarray) -> bool:
        """One simulator step; whether its state is a success."""
        self.simulator_state, _, _, _, info = self._env.step(np.asarray(action, np.float32))
        return bool(info["success"])

    def _set_limit(self, max_decisions: int) -> None:
        self.max_decisions = max_decisions * self._config.action_repeat // self._repeat
        self._env.max_path_length = self.max_decisions * self._repeat + 1

    def _settled_state(self) -> np.ndarray:
        """The 39 numbers after a reset. Some tasks move bodies without recomputing the kinematics: the first frame and state would be
        those of the previous place."""
        gl.import_simulator("mujoco").mj_forward(self._env.model, self._env.data)
        for site in self._env._target_site_config:
            self._env._set_pos_site(*site)
        state = self._env._get_obs()
        state[18:36] = state[:18]
        self._env._prev_obs = state[:18].copy()
        return state

    def _observation(self) -> dict[str, Any]:
        state = self.simulator_state[: self._spec.state_dim].astype(np.float32)
        return {"images": {name: self.render_frame(self._spec.image_size[0]) for name in self._spec.cameras}, "state": state}

    def render_frame(self, size: int) -> np.ndarray:
        """uint8 [size, size, 3] from the free camera that shows the whole workspace."""
        gl.require_backend()
        mujoco = gl.import_simulator("mujoco")

        model = self._env.model
        if size not in self._renderers:
            model.vis.quality.shadowsize = 1  # shadows and multisampling cost 10-40x on a software renderer
            model.vis.quality.offsamples = 0
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
            model.vis.global_.offheight = max(model.vis.global_.offheight, size)
            self._renderers[size] = mujoco.Renderer(model, size, size)
        camera = mujoco.MjvCamera()
        camera.lookat[:] = (0.0, 0.62, 0.13)
        camera.distance, camera.azimuth, camera.elevation = 1.15, 150, -35
        renderer = self._renderers[size]
        renderer.update_scene(self._env.data, camera)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer.render().copy()

    def close(self):
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._env.close()


def dataset_spec(config: ml_collections.ConfigDict, path: str) -> DatasetSpec:
    """Of what `collect` writes from this environment: its data must have held each task's actions as long as the environment does."""
    return DatasetSpec(
        path=path,
        standardise=standardisers.collected,
        action=action_spec(config),
        observation=observation_spec(config),
        last_record="observation",
        reward="success",
        dt=None,
        expected_dt={task: decision_dt(config, task) for task in suite_tasks(config.tasks)},
    )


def _recolour_markers(model: Any, visible: bool) -> None:
    """One colour for the markers of all tasks, and none where the scene itself shows what to do."""
    for index in range(model.nsite):
        if "goal" in model.site(index).name:
            model.site_rgba[index] = MARKER_RGBA if visible else (0.0, 0.0, 0.0, 0.0)
