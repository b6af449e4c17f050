"""What the state-only experiments about the paper's claim share: pools of episodes, one network, one budget.

A pool is collected once for each seed. A run's `config.data.limits` (episodes a task of each collector) and
`config.data.episodes` say what of it is trained on, so recipes that differ in one thing share all the rest.
"""

import ml_collections

from qt_jax.envs import collectors
from qt_jax.evaluation import settings
from qt_jax.training.config import default_config

SYSTEMATIC = ("perception_bias", "wrong_task", "stuck_gripper")
"""Collectors whose errors have a direction; those of "noise" have mean zero."""


def get_config(name: str, agent: str, seed: int, env: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config of an agent on the pool of `seed`, which seeds the training too.

    Args:
        name: of the experiment; data and runs are below it.
        agent: name of the algorithm.
        seed: of pool, initialisation and order.
        env: the suite's settings, whose images are left out.

    """
    config = default_config(agent)
    config.workdir = f"runs/{name}/{agent}_{seed}"
    config.seed = seed
    config.env = env
    config.env.cameras = ()
    config.env.state = "full"
    config.collect = collectors.get_config()
    config.collect.seed = seed
    config.collect.demonstrations = 100
    config.collect.mix = {"noise": 200} | dict.fromkeys(SYSTEMATIC, 200 / len(SYSTEMATIC)) | {"wander": 40}
    config.collect.autonomous = 440
    config.collect.noise_scale = (0.7, 1.2)
    config.data.path = f"data/{name}/{seed}"
    config.data.validation_fraction = 0.0
    config.data.segment_length = 5
    config.data.batch_size = 32
    config.model.window = 1
    config.model.layers = 2
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 2500
    config.train.log_every = 100
    config.train.validate_every = 1000
    config.train.checkpoint_every = 2500
    config.evaluate = settings.get_config()
    config.evaluate.episodes = 10
    config.evaluate.num_envs = 5
    config.evaluate.max_decisions = 100
    config.evaluate.videos = 0
    return config


def people(
    config: ml_collections.ConfigDict, demonstrations: int, autonomous: int, kind: str = "policy"
) -> None:
    """Makes a config's pool that of recipe h: people's demonstrations, then episodes of their clone.

    Args:
        config: as from `get_config`.
        demonstrations: of people, a task.
        autonomous: episodes a task of the policy that clones them (`clone`), as they come.
        kind: their collector: "policy", or "intervention", in which a person takes over now and then.

    """
    name, seed = config.data.path.split("/")[1:]
    config.env.max_decisions = 60  # people are slower than the experts
    config.collect.demonstrator = "human"
    config.collect.demonstrations = demonstrations
    config.collect.autonomous = autonomous
    config.collect.mix = ml_collections.ConfigDict({kind: 1.0})
    config.collect.policy = f"runs/{name}/clone/{seed}"
    config.data.path = f"data/{name}/people_{seed}" if kind == "policy" else f"data/{name}/{kind}_{seed}"


def clone(config: ml_collections.ConfigDict) -> None:
    """Makes a config of behaviour cloning on the pool of `people` that of the policy which acts in it."""
    config.workdir = config.collect.policy
    config.collect.policy = ""
    config.collect.autonomous = 0
    name, seed = config.data.path.split("/")[1], config.seed
    config.data.path = f"data/{name}/people_alone_{seed}"
    config.data.limits, config.data.idle = (), ""
