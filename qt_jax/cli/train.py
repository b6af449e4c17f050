"""`train`: the learner on config.data.path, into config.workdir."""

from __future__ import annotations

from typing import Any

import ml_collections

from qt_jax.envs import metaworld
from qt_jax.training import distributed, loop


def main(config: Any) -> None:
    distributed.start(config.distributed)
    dt = {task: metaworld.decision_dt(config.env, task) for task in metaworld.suite_tasks(config.env.tasks)}
    action, observation = metaworld.action_spec(config.env), metaworld.observation_spec(config.env)
    loop.train(ml_collections.FrozenConfigDict(config), action, observation, dt)
