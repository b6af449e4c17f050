"""`python -m benchmarks.ogbench_held`: whether OGBench's policies of play place cubes with held actions.

Each decision is the mean of what the policy does in the next control periods, held for as many. Prints how
many cubes of cube-single end within reach of where they were to go. Three minutes of a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from qt_jax.envs import ogbench_oracles as oracles
from qt_jax.envs.ogbench_goals import REACHED_M

SCENE, EPISODES = "cube-single", 5
PERIODS = (1, 5, 10)
EVERYTHING = mujoco.mjtState.mjSTATE_INTEGRATION


def arrivals(seed: int, periods: int) -> Iterator[bool]:
    """Plays an episode; yields whether each cube that was moved arrived."""
    env = oracles._environment(SCENE)
    with oracles._seeded(seed):
        seen, info = env.reset(seed=seed)
        policy = _begun(seen, info)
        for _ in range(0, oracles.STEPS, periods):
            action = _mean_action(env, policy, seen, info, periods)
            for _ in range(periods):
                seen, *_, info = env.step(action)
            if policy.done:
                target = info["privileged/target_block"]
                goal = env._data.mocap_pos[env._cube_target_mocap_ids[target]]
                yield np.linalg.norm(info[f"privileged/block_{target}_pos"] - goal) <= REACHED_M
                policy = _begun(*env.set_new_target(p_stack=0.0))


def _begun(seen: np.ndarray, info: dict[str, Any]) -> Any:
    policy = oracles._policies(SCENE)[info["privileged/target_task"]]
    policy.reset(seen, info)
    return policy


def _mean_action(env: Any, policy: Any, seen: np.ndarray, info: dict[str, Any], periods: int) -> np.ndarray:
    """Lets the policy act, and puts the simulator back."""
    model, data = env._model, env._data
    before = np.empty(mujoco.mj_stateSize(model, EVERYTHING))
    mujoco.mj_getState(model, data, before, EVERYTHING)
    actions = []
    for _ in range(periods):
        actions.append(np.clip(policy.select_action(seen, info), -1.0, 1.0))
        seen, *_, info = env.step(actions[-1])
    mujoco.mj_setState(model, data, before, EVERYTHING)
    mujoco.mj_forward(model, data)
    return np.mean(actions, axis=0)


def main() -> None:
    print("| control periods of a decision | cubes that arrived |\n|---|---|")
    for periods in PERIODS:
        arrived = [own for seed in range(EPISODES) for own in arrivals(seed, periods)]
        print(f"| {periods} | {sum(arrived)} of {len(arrived)} |")


if __name__ == "__main__":
    main()
