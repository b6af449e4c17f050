"""Every experiment file: valid for every agent, and trained for two steps on a few real episodes.

The network has toy size.
"""

import importlib

import pytest

from qt_jax import agents
from qt_jax.training import checkpoints
from qt_jax.training.config import validate
from tests.conftest import run_command, train
from tests.tiny import get_config as tiny

ROBOTS = ("fractal", "bridge", "oxe_mix")
SIMULATED = {"metaworld_mt10": "reach", "metaworld_mt50": "lever-pull", "quickstart": "window-close"}
SIZES = ("encoder", "patch_stages", "image_size", "image_tokens", "layers", "width", "heads")


def experiment(name, agent):
    return importlib.import_module(f"experiments.{name}").get_config(agent)


@pytest.mark.parametrize("name", [*ROBOTS, *SIMULATED])
@pytest.mark.parametrize("agent", sorted(agents.AGENTS))
def test_every_agent_has_a_valid_config(name, agent):
    config = experiment(name, agent)
    validate(config, devices=4)
    assert config.workdir == f"runs/{name}/{agent}"


def shrunk(name, tmp_path):
    config, small = experiment(name, "q_transformer"), tiny()
    config.workdir = str(tmp_path / "run")
    config.model.update({key: small.model[key] for key in SIZES})
    config.model.layers = 1
    config.data.cache = small.data.cache
    config.data.batch_size, config.data.segment_length = 4, 5
    config.model.window = min(config.model.window, 2)
    config.data.validation_fraction = 0.0
    config.train.steps = 2
    return config


def assert_trained(config):
    # Only finite parameters are saved.
    assert int(train(config).step) == checkpoints.latest_step(config.workdir) == 2


def mostly_slow(names, *quick):
    """Of names that train much the same, those that `make test` trains, and the others before a release.

    tests/docs/test_pages.py trains the quickstart.
    """
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", mostly_slow(ROBOTS, "oxe_mix"))
def test_on_robots_data(name, synthetic_root, tmp_path):
    config = shrunk(name, tmp_path)
    config.data.root, config.data.image_size = synthetic_root, 32
    assert_trained(config)


@pytest.mark.parametrize("name", mostly_slow(SIMULATED))
def test_on_what_it_collects(name, tmp_path):
    config = shrunk(name, tmp_path)
    config.env.tasks = (SIMULATED[name],)
    config.data.path = str(tmp_path / "data")
    given = [f"--config.env.tasks=('{SIMULATED[name]}',)", f"--config.data.path={config.data.path}"]
    counts = {"demonstrations": 1, "autonomous": 2, "workers": 1}
    given += [f"--config.collect.{key}={value}" for key, value in counts.items()]
    run_command("collect", *given, config=f"experiments/{name}.py")
    assert_trained(config)
