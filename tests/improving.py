"""Rounds of experience in the small suite of examples/my_suite.py: state-only, of toy size."""

import os

from examples import my_suite


def get_config():
    config = my_suite.get_config()
    config.improve.rounds = 2
    config.improve.episodes = 11  # two batches of a task
    config.improve.steps = 20
    config.collect.demonstrations, config.collect.autonomous, config.collect.workers = 6, 4, 1
    config.data.cache = os.environ.get("QT_JAX_CACHE", config.data.cache)
    config.data.segment_length, config.data.batch_size = 6, 8
    config.data.validation_fraction, config.data.read_threads = 0.0, 1
    config.model.layers, config.model.width, config.model.heads, config.model.window = 1, 32, 2, 1
    config.optimizer.warmup_steps = 2
    config.train.steps = 20
    config.train.log_every = 10
    config.train.checkpoint_every = 5
    config.evaluate.episodes, config.evaluate.num_envs, config.evaluate.videos = 4, 4, 0
    return config
