"""Network sizes for `plan`: `sizes.py:rt1` (42M parameters), `sizes.py:300m` and `sizes.py:3b`.

All have 300x300 images and 256 bins. The Meta-World environment stands for the robot (one camera, 4 action
dims); a robot with 8 dims adds 1M parameters.

Planned, not trained. Hardware and memory: the table in docs/speed.md, from `make plan-sizes`.
"""

import ml_collections

from qt_jax.envs import collectors, metaworld
from qt_jax.evaluation import settings
from qt_jax.models import q_transformer as model
from qt_jax.training.config import default_config

TRANSFORMERS = {"rt1": (8, 512, 8), "300m": (24, 1024, 16), "3b": (36, 2560, 20)}  # layers, width, heads


def get_config(size: str = "rt1") -> ml_collections.ConfigDict:
    config = default_config(network=model.paper)
    config.workdir = f"runs/{size}"
    config.env = metaworld.get_config()
    config.env.image_size = 300
    config.env.bins = 256
    config.collect = collectors.get_config()
    config.evaluate = settings.get_config()
    config.model.layers, config.model.width, config.model.heads = TRANSFORMERS[size]
    config.data.segment_length = 12
    config.data.batch_size = 64
    return config
