"""The experiment file of the tests: images, state and language at toy size, two layers deep."""

import os

import ml_collections

from qt_jax.envs import collectors, metaworld
from qt_jax.evaluation import settings
from qt_jax.training.config import default_config


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = default_config(agent)
    config.env = metaworld.get_config()
    config.env.tasks = ("faucet-open", "faucet-close")
    config.env.image_size = 32
    config.env.max_decisions = 20
    config.env.bins = 16
    config.collect = collectors.get_config()
    config.collect.demonstrations = 4
    config.collect.autonomous = 4
    config.collect.mix = {"noise": 0.5, "early_limit": 0.5}
    config.data.cache = os.environ.get("QT_JAX_CACHE", config.data.cache)
    config.data.segment_length = 6
    config.data.batch_size = 8
    config.data.validation_fraction = 0.75  # by hash: both outcomes fall on both sides
    config.data.read_threads = 2
    config.model.image_size = 32
    config.model.patch_stages = ((8, 16, 1),)
    config.model.image_tokens = 2
    config.model.layers, config.model.width, config.model.heads, config.model.window = 1, 32, 2, 2
    config.optimizer.warmup_steps = 2
    config.train.steps = 20
    config.train.log_every = 5
    config.train.validate_every = 10
    config.train.checkpoint_every = 10
    config.evaluate = settings.get_config()
    config.evaluate.episodes, config.evaluate.num_envs = 2, 3
    return config
