"""What the environments of all suites have in common: decisions held for several simulator steps, time
limits, replays, frames.
"""

from __future__ import annotations

import abc
import collections
from typing import Any

import gymnasium
import ml_collections
import numpy as np

from qt_jax.envs import gl
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec


class SuiteEnv(gymnasium.Env, abc.ABC):
    """One task. The first success terminates the episode; `config.max_decisions` truncates it.

    Observations are {"images": {camera: uint8 [H, W, 3]}, "state": float32 [state_dim]}; `reset(seed=)` fixes
    the whole episode, whatever ran before; `reset(options={"max_decisions": n})` gives one episode a limit of
    its own. A suite defines what is abstract here; `simulator_state` is what its scripted experts see.
    """

    simulator_state: Any

    def __init__(
        self,
        instruction: str,
        simulator: Any,
        config: ml_collections.ConfigDict,
        action: ActionSpec,
        observation: ObservationSpec,
        repeat: int,
    ):
        """simulator: what has MuJoCo's `model` and `data`."""
        if observation.cameras:
            gl.require_backend()
        self.instruction, self._simulator = instruction, simulator
        self._config, self._spec, self._repeat = config, observation, repeat
        self._renderers: dict[int, Any] = {}
        self._decisions = 0
        self._set_limit(config.max_decisions)
        self.action_space = gymnasium.spaces.Box(np.float32(action.low), np.float32(action.high))
        self.observation_space = gymnasium.spaces.Dict(
            images=gymnasium.spaces.Dict(
                {
                    name: gymnasium.spaces.Box(0, 255, (*observation.image_size, 3), np.uint8)
                    for name in observation.cameras
                }
            ),
            state=gymnasium.spaces.Box(-np.inf, np.inf, (observation.state_dim,), np.float32),
        )

    @abc.abstractmethod
    def _begin(self, seed: int | None) -> None:
        """A new episode, and its `simulator_state`."""

    @abc.abstractmethod
    def _simulate(self, action: np.ndarray) -> bool:
        """One simulator step; whether its state is a success."""

    @abc.abstractmethod
    def _state(self) -> np.ndarray:
        """Of which an observation's state is the beginning."""

    @abc.abstractmethod
    def _camera(self) -> Any:
        """What mujoco.Renderer.update_scene takes as a camera."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self._set_limit((options or {}).get("max_decisions", self._config.max_decisions))
        self._begin(seed)
        self._decisions = 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray):
        """Holds `action` [D] for the task's action repeat; stops at the first simulator step that succeeds."""
        success = False
        for _ in range(self._repeat):
            success = self._simulate(action)
            if success:
                break
        self._decisions += 1
        truncated = not success and self._decisions >= self.max_decisions
        return self._observation(), float(success), success, truncated, {"success": success}

    def replay(self, seed: int, actions: np.ndarray, keep: int = 1) -> tuple[list[dict[str, Any]], bool]:
        """An episode that begins where `actions` [T, D] lead from `reset(seed=seed)`; the time limit counts
        from there.

        Each action is held to its end whatever it achieves, so that tasks that share a scene come to the same
        state.

        Returns: the observations of the last `keep` states (fewer where there are fewer), and whether the
        last is a success.
        """
        first, _ = self.reset(seed=seed)
        observations, success = collections.deque([first], maxlen=keep), False
        for left, action in zip(range(len(actions), 0, -1), actions):
            for _ in range(self._repeat):
                success = self._simulate(action)
            if left <= keep:
                observations.append(self._observation())
        return list(observations), success

    def _set_limit(self, max_decisions: int) -> None:
        self.max_decisions = max_decisions * self._config.action_repeat // self._repeat

    def _observation(self) -> dict[str, Any]:
        state = self._state()[: self._spec.state_dim].astype(np.float32)
        return {
            "images": {name: self.render_frame(self._spec.image_size[0]) for name in self._spec.cameras},
            "state": state,
        }

    def render_frame(self, size: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        gl.require_backend()
        mujoco = gl.import_simulator("mujoco")

        model = self._simulator.model
        if size not in self._renderers:
            model.vis.quality.shadowsize = 1  # shadows and multisampling cost 10-40x on a software renderer
            model.vis.quality.offsamples = 0
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
            model.vis.global_.offheight = max(model.vis.global_.offheight, size)
            self._renderers[size] = mujoco.Renderer(model, size, size)
        renderer = self._renderers[size]
        renderer.update_scene(self._simulator.data, self._camera())
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return renderer.render().copy()

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def observation_spec(
    config: ml_collections.ConfigDict, camera: str, states: dict[str, tuple[int, str]]
) -> ObservationSpec:
    """Of `config.env`; states: {config.env.state: (numbers, what they are)}.

    Raises:
        UserError: for a setting that the suite does not have.

    """
    if config.state not in states:
        raise UserError(f"config.env.state is {config.state!r}; expected one of {sorted(states)}.")
    if set(config.cameras) - {camera}:
        raise UserError(f"config.env.cameras is {tuple(config.cameras)}; expected () or ({camera!r},).")
    for key in ("image_size", "action_repeat", "max_decisions"):
        if config[key] < 1:
            raise UserError(f"config.env.{key} is {config[key]}; expected a positive number.")
    dim, description = states[config.state]
    return ObservationSpec(config.cameras, (config.image_size,) * 2, dim, description)


def tasks_named(
    names: tuple[str, ...], groups: dict[str, tuple[str, ...]], known: tuple[str, ...]
) -> tuple[str, ...]:
    """Of the suite whose tasks are `known`: each name is a task's, or a group's {name: its tasks}.

    Raises:
        UserError: for a name that is neither.

    """
    chosen = tuple(task for name in names for task in groups.get(name, (name,)))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        expected = ", ".join(map(repr, groups))
        raise UserError(
            f"config.env.tasks has unknown tasks {unknown}; expected {expected} or some of {', '.join(known)}."
        )
    return chosen
