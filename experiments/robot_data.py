"""What the experiments on real robots' data share: RT-1's network, and 64 segments of 12 frames.

The network has its paper size. Planned, not run: nobody here has had the data and the accelerators. `plan`
compiles each for chips that need not be here; what fits where: experiments/results/plan_experiments.md (`make
plan-experiments`). All settings that docs/method.md does not mark as the paper's are defaults of this
project.
"""

import ml_collections

from qt_jax.improvement import settings as rounds
from qt_jax.models import q_transformer as model
from qt_jax.training.config import default_config


def get_config(mixture: str, agent: str) -> ml_collections.ConfigDict:
    config = default_config(agent, model.paper)
    config.data.mixture = mixture
    config.data.root = "data/oxe"
    config.data.image_size = 300
    config.data.segment_length = 12
    config.data.batch_size = 64
    config.data.shuffle_episodes = 2048
    config.data.memory_mib = 8192
    config.data.read_threads = 16
    config.data.augment.shift = 20
    config.data.augment.brightness = 0.1
    config.data.augment.contrast = 0.2
    config.data.validation_fraction = 0.01
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 2000
    config.train.steps = 200_000
    config.train.log_every = 100
    config.train.validate_every = 5000
    config.train.checkpoint_every = 5000
    config.improve = rounds.get_config()
    config.improve.collect = rounds.RECORDED
    config.improve.steps = 20_000
    return config
