"""State-only BC on a few demonstrations of two easy tasks: the least that solves them.

For the tests that need successes.
"""

from qt_jax.envs import metaworld
from tests import tiny


def get_config():
    config = tiny.get_config("bc")
    config.env = metaworld.get_config()
    config.env.tasks = ("faucet-open", "drawer-close")
    config.env.cameras = ()
    config.env.state = "full"
    config.env.max_decisions = 40
    config.collect.demonstrations, config.collect.autonomous = 40, 4
    config.collect.workers = 2
    config.data.episodes = "successes"
    config.data.segment_length, config.model.window = 5, 1
    config.data.batch_size, config.data.validation_fraction = 64, 0.1
    config.model.layers, config.model.width, config.model.heads = 1, 64, 4
    config.optimizer.learning_rate = 2e-3
    config.train.steps, config.train.log_every = 200, 100
    config.train.validate_every = config.train.checkpoint_every = 200
    config.evaluate.episodes = 10
    config.evaluate.videos = 0
    return config
