"""One tiny dataset and one tiny checkpoint a run, made by the real simulator, writer and learner."""

from __future__ import annotations

import ml_collections
import pytest

from qt_jax.data import rlds_writer
from qt_jax.envs import collectors, metaworld
from qt_jax.evaluation import settings
from qt_jax.training import loop
from qt_jax.training.config import default_config

TASKS = ("faucet-open", "faucet-close")


def tiny_config(agent: str = "q_transformer") -> ml_collections.ConfigDict:
    """Images, state and language at toy size, two layers deep."""
    config = default_config(agent)
    config.env = metaworld.get_config()
    config.env.tasks = TASKS
    config.env.image_size = 32
    config.env.max_decisions = 20
    config.env.bins = 16
    config.collect = collectors.get_config()
    config.collect.demonstrations = 4
    config.collect.autonomous = 4
    config.collect.mix = {"noise": 0.5, "early_limit": 0.5}
    config.collect.workers = 1
    config.data.segment_length = 6
    config.data.batch_size = 8
    config.data.validation_fraction = 0.3
    config.data.read_threads = 2
    config.model.image_size = 32
    config.model.patch_stages = ((8, 16, 1),)
    config.model.image_tokens = 2
    config.model.layers, config.model.width, config.model.heads, config.model.window = 2, 32, 2, 2
    config.optimizer.warmup_steps = 2
    config.train.steps = 20
    config.train.log_every = 5
    config.train.validate_every = 10
    config.train.checkpoint_every = 10
    config.evaluate = settings.get_config()
    config.evaluate.episodes, config.evaluate.num_envs = 2, 3
    return config


def collect(config: ml_collections.ConfigDict, path: str) -> str:
    plans = collectors.plan_episodes(config.collect, metaworld.suite_tasks(config.env.tasks))
    rlds_writer.write(
        path,
        (collectors.collect_episode(config, plan) for plan in plans),
        action=metaworld.action_spec(config.env),
        observation=metaworld.observation_spec(config.env),
        description="tests",
        file_format=config.collect.file_format,
    )
    return path


def train(config: ml_collections.ConfigDict):
    frozen = ml_collections.FrozenConfigDict(config)
    return loop.train(frozen, metaworld.action_spec(config.env), metaworld.observation_spec(config.env))


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory) -> str:
    return collect(tiny_config(), str(tmp_path_factory.mktemp("data") / "tiny"))


@pytest.fixture
def config(dataset_path, tmp_path) -> ml_collections.ConfigDict:
    config = tiny_config()
    config.data.path = dataset_path
    config.workdir = str(tmp_path / "run")
    return config


@pytest.fixture(scope="session")
def trained(dataset_path, tmp_path_factory) -> ml_collections.ConfigDict:
    """The config of a finished run of 20 steps."""
    config = tiny_config()
    config.data.path = dataset_path
    config.workdir = str(tmp_path_factory.mktemp("runs") / "tiny")
    train(config)
    return config
