"""A collection of twelve episodes, for a machine that has only what collecting needs."""

import ml_collections

from qt_jax.envs import collectors, metaworld


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.env = metaworld.get_config()
    config.env.tasks = ("faucet-open", "faucet-close")
    config.env.image_size = 32
    config.env.max_decisions = 20
    config.collect = collectors.get_config()
    config.collect.demonstrations = 3
    config.collect.autonomous = 3
    config.data = ml_collections.ConfigDict({"path": ""})
    return config
