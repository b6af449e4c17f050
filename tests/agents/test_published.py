"""The baselines' options towards what was published, through training, a checkpoint and an artefact."""

import shutil
from pathlib import Path

import pytest

from qt_jax.cli import help
from qt_jax.export import artefact
from tests import tiny
from tests.conftest import train
from tests.training.test_learner import equal_trees, saved_state

OPTIONS = [
    ("decision_transformer", {"timesteps": 8}),
    ("awac", {"advantage_of": "action", "value_loss": "logistic"}),
    ("iql", {"value_loss": "histogram", "value_cells": 12}),
]


@pytest.mark.parametrize("agent, settings", OPTIONS)
def test_the_options_are_explained(agent, settings):
    lines = help.of(tiny.get_config(agent)).splitlines()
    for name in settings:
        (line,) = [line for line in lines if line.startswith(f"--config.agent.{name}=")]
        assert "  # " in line


@pytest.mark.slow
@pytest.mark.parametrize("agent, settings", OPTIONS)
def test_a_run_with_the_options_continues_bit_for_bit_and_is_exported(
    agent, settings, dataset_path, tmp_path
):
    config = tiny.get_config(agent)
    config.data.path, config.workdir = dataset_path, str(tmp_path / "run")
    config.agent.update(settings)
    train(config)
    undisturbed = saved_state(config.workdir)
    shutil.rmtree(Path(config.workdir, "checkpoints", "20"))
    train(config)
    equal_trees(saved_state(config.workdir), undisturbed)
    found = artefact.write(config.workdir, str(tmp_path / "policy")).about["agreement"]
    assert found["max_difference"] < found["tolerance"] and found["other_bins"] <= found["ties"]
