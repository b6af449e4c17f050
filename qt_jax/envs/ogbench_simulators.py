"""OGBench's own environments of its scenes, in a state where a seed repeats an episode; and ours of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from qt_jax.envs import gl
from qt_jax.envs.ogbench_goals import Scene
from qt_jax.envs.suite_env import SuiteEnv

CAMERA = "front"
_CLOSED: dict[str, list[Any]] = {}
"""Compiled scenes that no environment uses, by name. They take seconds to make."""


class OGBenchEnv(SuiteEnv):
    """An environment of one of OGBench's scenes, which keeps the compiled scene for the next one."""

    def __init__(self, scene: str, make_scene: Callable[[], Any], instruction: str, *settings: Any):
        """Takes a scene that is kept, or makes one.

        Args:
            scene: name of what `make_scene` makes.
            make_scene: makes OGBench's environment.
            instruction: as in `SuiteEnv`, like what follows the simulator there.
            settings: what follows.
        """
        self._kept = _CLOSED.setdefault(scene, [])
        super().__init__(instruction, self._kept.pop() if self._kept else make_scene(), *settings)

    def _state(self) -> np.ndarray:
        return self._simulator.compute_observation()

    def _camera(self) -> Any:
        return CAMERA

    def close(self) -> None:
        """Frees the renderers, and keeps the scene."""
        super().close()
        self._kept.append(self._simulator)


def make(scene: Scene, mode: str) -> Any:
    """Makes OGBench's environment of a scene, without its marks of success and goal.

    Args:
        scene: which.
        mode: OGBench's: "task", for its single-task benchmark, or "data_collection".
    """
    own: dict[str, Any] = {"success_timing": "pre"} if mode == "task" else {"terminate_at_goal": False}
    if scene.cubes and mode == "task":
        own["permute_blocks"] = False
    return _seeded(scene.module, scene.name)(env_type=scene.env_type, mode=mode, visualize_info=False, **own)


@functools.cache
def _seeded(module: str, name: str) -> type:
    base: Any = getattr(gl.import_simulator(f"ogbench.manipspace.envs.{module}"), name)

    class Seeded(base):
        """OGBench's environment, whose resets repeat themselves: it moves the arm by unseeded actions."""

        @functools.cached_property
        def action_space(self) -> Any:
            return gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)

        def reset(self, *, seed: int | None = None, **options: Any):
            self.action_space.seed(seed)
            return super().reset(seed=seed, **options)

    return Seeded
