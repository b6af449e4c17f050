"""A run whose policy decides and executes two actions at once, from its training to what acts."""

import json

import numpy as np
import pytest

import qt_jax
from qt_jax.errors import UserError
from qt_jax.evaluation import evaluate, plots
from qt_jax.export import artefact
from tests import tiny
from tests.conftest import train


@pytest.fixture(scope="module")
def run(dataset_path, tmp_path_factory):
    config = tiny.get_config("bc")
    config.env.cameras = ()
    config.data.path, config.workdir = dataset_path, str(tmp_path_factory.mktemp("runs") / "chunks")
    config.model.chunk = 2
    config.evaluate.episodes = config.evaluate.num_envs = 1
    config.evaluate.videos, config.data.validation_fraction = 0, 0.0
    config.train.steps = config.train.checkpoint_every = 2
    train(config)
    return config


def test_it_is_evaluated_by_control_steps(run):
    found = qt_jax.evaluate(run)
    assert all(0 < row["mean_length"] <= run.env.max_decisions for row in found["tasks"].values())
    assert evaluate.of_run(run).names[4:6] == ("x+1", "y+1")


def test_the_report_draws_every_dim_of_a_long_chunk():
    names = tuple(f"x+{k}" for k in range(9))
    assert plots.scores_over_bins(np.zeros((2, 9, 4)), names, "Q").startswith("data:image/png")


def test_its_artefact_acts_as_the_checkpoint_does(run, tmp_path):
    written = artefact.write(run.workdir, str(tmp_path / "policy"))
    agreement = json.loads((written.path / "policy.json").read_text())["agreement"]
    assert agreement["max_difference"] <= agreement["tolerance"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"chunk": 2, "execute": 3}, "config.model.execute is 3, expected 0 to config.model.chunk"),
        ({"chunk": 0}, "config.model.chunk is 0, expected a positive number"),
        (
            {"chunk": 4},
            "segment_length is 6; a window of 2 frames, 4 steps apart, and backups over 4 steps need",
        ),
        ({"chunk": 99}, "config.model.chunk is 99, the longest episode has 20 actions; give at most as many"),
    ],
)
def test_chunks_that_do_not_fit_are_refused(config, settings, message):
    config.model.update(settings)
    with pytest.raises(UserError) as caught:
        train(config)
    assert message in str(caught.value)
