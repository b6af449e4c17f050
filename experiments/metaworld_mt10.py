"""State-only MT10: 100 demonstrations and 200 noisy autonomous episodes a task, 64 bins.

`make bench-state` collects once and trains Q-Transformer, BC on everything and BC on successes.

Hardware: 2 CPU cores. Time: 35 minutes for the three, of which 8 to 11 are the training of each. Memory: 1.1
GiB at the learner's peak. Result, one seed: 88%, 70% and 97% success (experiments/results/bench_state.json).
"""

import ml_collections

from qt_jax.envs import collectors, metaworld
from qt_jax.evaluation import settings
from qt_jax.training.config import default_config


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = default_config(agent)
    config.workdir = f"runs/metaworld_mt10/{agent}"
    config.env = metaworld.get_config()
    config.env.cameras = ()
    config.env.state = "full"
    config.env.max_decisions = 40
    config.collect = collectors.get_config()
    config.collect.noise_scale = (0.8, 1.4)
    config.data.path = "data/metaworld_mt10_state"
    config.data.segment_length = 5
    config.data.batch_size = 64
    config.model.window = 1
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 6000
    config.train.log_every = 100
    config.train.validate_every = 1000
    config.train.checkpoint_every = 1000
    config.evaluate = settings.get_config()
    config.evaluate.episodes = 30
    config.evaluate.max_decisions = 100  # Meta-World's own limit, 500 simulator steps
    config.evaluate.videos = 0
    return config
