"""Episodes of play in OGBench's scenes, by OGBench's own scripted policies and settings.

OGBench's script draws from numpy's global generator and from its environment's, neither seeded. Here both get
the seed of the episode, so that each can be made again by itself; with equal seeds the transitions are equal.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from qt_jax.envs import gl, ogbench_simulators
from qt_jax.envs.ogbench_goals import SCENES, Scene

STEPS = 1000
"""Transitions of an episode. OGBench records one action more, whose outcome it does not keep."""
NOISE, NOISE_SMOOTHING = 0.1, 0.5
"""Of the policies' plans: its amount, and how many control periods it lasts."""


def episode(name: str, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Records one episode of play.

    Args:
        name: of the scene.
        seed: below 2**32.

    Returns:
        Observations, float32 [STEPS + 1, state_dim], and actions, float32 [STEPS, 5]; None for an episode
        that OGBench's script throws away, since its cube fell out of sight.
    """
    scene, env = SCENES[name], _environment(name)
    with _seeded(seed):
        seen, info = env.reset(seed=seed)
        low, high = scene.stacking
        p_stack = np.random.uniform(low, high) if high > low else low
        policies = _policies(name)
        policy = policies[info["privileged/target_task"]]
        policy.reset(seen, info)

        states, actions, places = [seen], [], [info["qpos"]]
        for _ in range(STEPS):
            np.random.rand()  # OGBench draws whether to act at random: with a chance of 0 in its play
            action = np.clip(policy.select_action(seen, info), -1.0, 1.0)
            seen, *_, info = env.step(action)
            states.append(seen)
            actions.append(action)
            places.append(info["qpos"])
            if policy.done:
                target, told = env.set_new_target(p_stack=p_stack)
                policy = policies[told["privileged/target_task"]]
                policy.reset(target, told)

    if scene.slides and not _is_in_sight(np.stack(places)[:, 14:17]):
        return None
    return np.stack(states).astype(np.float32), np.stack(actions).astype(np.float32)


def _is_in_sight(cube: np.ndarray) -> bool:
    """Returns whether the cube, at [R, 3], is never too far left or right, unless it is in the drawer."""
    in_drawer = (cube[:, 2] >= 0.06) & (cube[:, 2] <= 0.08)
    return not (np.any(cube[:, 1] >= 0.29) or np.any((cube[:, 1] <= -0.3) & ~in_drawer))


@functools.cache
def _environment(name: str) -> Any:
    return ogbench_simulators.make(SCENES[name], mode="data_collection")


@functools.cache
def _policies(name: str) -> dict[str, Any]:
    """Returns {what is handled: the policy that follows a plan for it}."""
    scene, env = SCENES[name], _environment(name)
    kinds = ["cube"] * bool(scene.cubes) + ["button"] * bool(scene.buttons)
    return {kind: _policy(kind, scene, env) for kind in (*kinds, *(("drawer", "window") * scene.slides))}


def _policy(kind: str, scene: Scene, env: Any) -> Any:
    module = gl.import_simulator(f"ogbench.manipspace.oracles.plan.{kind}_plan")
    closed = {} if scene.cubes else {"gripper_always_closed": True}
    make = getattr(module, f"{kind.capitalize()}PlanOracle")
    return make(env=env, noise=NOISE, noise_smoothing=NOISE_SMOOTHING, **closed)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, which OGBench's policies draw from, and restores it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
