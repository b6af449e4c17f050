"""A run whose policy decides three actions and executes two, from its training to the report."""

import json
from pathlib import Path

import numpy as np
import pytest

import qt_jax
from qt_jax.errors import UserError
from qt_jax.export import artefact
from qt_jax.training import checkpoints
from tests import tiny
from tests.conftest import train


@pytest.fixture(scope="module")
def run(dataset_path, tmp_path_factory):
    config = tiny.get_config("q_transformer")
    config.data.path, config.workdir = dataset_path, str(tmp_path_factory.mktemp("runs") / "chunks")
    config.model.chunk, config.model.execute = 3, 2
    config.evaluate.episodes = config.evaluate.num_envs = config.evaluate.videos = 1
    config.train.steps = config.train.checkpoint_every = config.train.validate_every = 2
    train(config)
    return config


def test_it_is_evaluated_and_reported_by_control_steps(run):
    found = qt_jax.evaluate(run)
    assert all(0 < row["mean_length"] <= run.env.max_decisions for row in found["tasks"].values())
    assert (Path(run.workdir) / "report.html").exists()
    assert checkpoints.load_assets(run.workdir).interface.decision.names[4:6] == ("x+1", "y+1")


def test_its_artefact_acts_as_the_checkpoint_does(run, tmp_path):
    written = artefact.write(run.workdir, str(tmp_path / "policy"))
    agreement = json.loads((written.path / "policy.json").read_text())["agreement"]
    assert agreement["max_difference"] <= agreement["tolerance"]
    policy = qt_jax.load_policy(written.path)
    seen = {
        key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of
    }
    embedding = {"instruction_embedding": np.zeros(policy.spec.interface.instruction_dim, np.float32)}
    reply = policy.infer(seen | embedding)
    assert reply["actions"].shape == (2, 4) and reply["tokens"].shape == (12,)


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
