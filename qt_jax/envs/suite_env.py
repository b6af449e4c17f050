"""What the environments of all suites share: held decisions, time limits, replays, frames."""

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

    Each decision is held for several simulator steps. Observations are {"images": {camera: uint8 [H, W, 3]},
    "state": float32 [state_dim]}. `reset(seed=)` fixes the whole episode, whatever ran before, and
    `reset(options={"max_decisions": n})` sets the limit of one episode. A suite defines the abstract methods.

    Attributes:
        instruction: the sentence that evaluation uses.
        simulator_state: what the suite's scripted experts see.
        max_decisions: the limit of this episode.
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
        """Makes the spaces.

        Args:
            instruction: the sentence that evaluation uses.
            simulator: an object with MuJoCo's `model` and `data`.
            config: `config.env`.
            action: the spec of the suite's actions.
            observation: the spec of the suite's observations.
            repeat: simulator steps that each decision is held.
        """
        if observation.cameras:
            gl.require_backend()
        self.instruction, self._simulator = instruction, simulator
        self._config, self._spec, self._repeat = config, observation, repeat
        self._renderers: dict[int, Any] = {}
        self._decisions = 0
        self._set_limit(config.max_decisions)

        low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
        self.action_space = gymnasium.spaces.Box(low, high)
        image = gymnasium.spaces.Box(0, 255, (*observation.image_size, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict(
            images=gymnasium.spaces.Dict(dict.fromkeys(observation.cameras, image)),
            state=gymnasium.spaces.Box(-np.inf, np.inf, (observation.state_dim,), np.float32),
        )

    @abc.abstractmethod
    def _begin(self, seed: int | None) -> None:
        """Starts a new episode and sets its `simulator_state`."""

    @abc.abstractmethod
    def _simulate(self, action: np.ndarray) -> bool:
        """Runs one simulator step; returns whether its state is a success."""

    @abc.abstractmethod
    def _state(self) -> np.ndarray:
        """Returns all numbers of the state; an observation has the first `state_dim` of them."""

    @abc.abstractmethod
    def _camera(self) -> Any:
        """Returns what `mujoco.Renderer.update_scene` takes as a camera."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts an episode; returns its first observation and {"success": False}."""
        self._set_limit((options or {}).get("max_decisions", self._config.max_decisions))
        self._begin(seed)
        self._decisions = 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray):
        """Holds `action` [D] for the task's action repeat, or until a simulator step succeeds.

        Returns the observation, the reward (1 on success, unless the suite has its own), whether it
        terminated, whether it was truncated, and {"success": whether it succeeded}.
        """
        success = False
        for _ in range(self._repeat):
            success = self._simulate(action)
            if success:
                break
        self._decisions += 1
        truncated = not success and self._decisions >= self.max_decisions
        return self._observation(), self._reward(success), success, truncated, {"success": success}

    def _reward(self, success: bool) -> float:
        """Returns the reward of the decision that was simulated last."""
        return float(success)

    def replay(self, seed: int, actions: np.ndarray, keep: int = 1) -> tuple[list[dict[str, Any]], bool]:
        """Starts an episode at the state where `actions` [T, D] lead from `reset(seed=seed)`.

        The time limit counts from there. Each action is held to its end, whatever it achieves: so tasks that
        share a scene come to the same state.

        Returns:
            The observations of the last `keep` states (fewer where there are fewer), and whether the last
            state is a success.
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
        """Renders the suite's camera: uint8 [size, size, 3]."""
        gl.require_backend()
        mujoco = gl.import_simulator("mujoco")

        if size not in self._renderers:
            model = self._simulator.model
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
        """Frees the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def observation_spec(
    config: ml_collections.ConfigDict, camera: str, states: dict[str, tuple[int, str]]
) -> ObservationSpec:
    """Returns the spec of a suite's observations.

    Args:
        config: `config.env`.
        camera: the suite's only one.
        states: {value of config.env.state: (how many numbers, what they are)}.

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
    """Returns the tasks that some names stand for.

    Args:
        names: each of a task or a group.
        groups: {name: its tasks}.
        known: all tasks of the suite.

    Raises:
        UserError: for a name that is neither a task's nor a group's.
    """
    chosen = tuple(task for name in names for task in groups.get(name, (name,)))
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        expected = ", ".join(map(repr, groups))
        raise UserError(
            f"config.env.tasks has unknown tasks {unknown}; expected {expected} or some of "
            f"{', '.join(known)}."
        )
    return chosen
