"""What examples/tour.py goes through: two Meta-World tasks from states, of a robot that begins with little.

Ten demonstrations a task, at a person's pace, and forty episodes with noise or another task's motions.
`tour.py:bc` is imitation of the successes of the same data.

Hardware: 2 CPU cores. Time: a quarter of an hour for all that examples/tour.py does. Memory: not measured.
Result: none; forty episodes tell nothing apart.
"""

import ml_collections

from qt_jax.envs import collectors, metaworld
from qt_jax.evaluation import settings
from qt_jax.improvement import settings as rounds
from qt_jax.training.config import default_config


def get_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    config = default_config(agent)
    config.workdir = f"runs/tour/{agent}"
    config.env = metaworld.get_config()
    config.env.tasks = ("drawer-open", "window-close")
    config.env.cameras, config.env.state = (), "full"
    config.env.max_decisions = 40
    config.collect = collectors.get_config()
    config.collect.demonstrations = 10
    config.collect.demonstrator = "human"
    config.collect.autonomous = 40
    config.collect.mix = {"noise": 0.5, "wrong_task": 0.5}
    config.collect.noise_scale = (0.8, 1.4)
    config.data.path = "data/tour"
    config.data.idle = "delta:0.01"  # people rest
    config.data.segment_length = 8
    config.data.balance.demonstrations = 0.5
    config.model.window = 1
    config.model.layers = 2
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 800
    config.train.checkpoint_every = 400
    config.train.validate_every = 200
    config.evaluate = settings.get_config()
    config.evaluate.num_envs = 5
    config.evaluate.decode = "beam:4"
    config.evaluate.references = ("runs/tour/bc",)
    config.improve = rounds.get_config()
    config.improve.rounds = 2
    config.improve.episodes = 20
    config.improve.steps = 300
    if agent == "bc":
        config.data.balance.demonstrations = None
        config.data.episodes = "successes"
        config.evaluate.decode = "sample"
        config.evaluate.references = ()
    return config
