"""Image encoders of others in training: how fast they learn, or that they do not, and what is refused."""

import functools

import jax
import ml_collections
import numpy as np
import pytest

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.models.pretrained import in_encoder, parameter_path
from qt_jax.training import loop
from qt_jax.training.config import default_config, validate
from qt_jax.training.peers import Peers
from qt_jax.training.state import init_state, train_step
from tests.models.test_q_transformer import make_network, make_segment

FROZEN = {"model.frozen_encoder": True, "model.encoder_weights": "eyes.safetensors"}


def one_step(**changes):
    """{path: how far a parameter went} in one step of a tiny network with a camera, and its new state."""
    network = make_network(layers=1)
    config = default_config("bc")
    config.model, config.value_range = ml_collections.ConfigDict(network.config), (0.0, 1.0)
    config.optimizer.warmup_steps, config.optimizer.weight_decay = 0, 0.0
    config.update_from_flattened_dict(changes)
    config = ml_collections.FrozenConfigDict(config)
    ensemble = agents.make_ensemble(config, network.interface)
    state = jax.jit(functools.partial(init_state, config, ensemble))()
    new, _ = jax.jit(functools.partial(train_step, config, ensemble))(state, make_segment())
    return moves(state.params, new.params), new


def moves(before, after):
    far = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), before, after)
    return {parameter_path(path): x for path, x in jax.tree_util.tree_leaves_with_path(far)}


def test_an_encoder_has_a_learning_rate_of_its_own_and_its_film_the_whole():
    whole, slow = one_step()[0], one_step(**{"optimizer.encoder_learning_rate": 0.125})[0]
    assert set(whole) == set(slow)
    slower = {path for path in whole if in_encoder(path) and "/film/" not in path}
    assert slower and whole["cameras/front/encoder/blocks/0/0/film/project/bias"] > 0
    for path, x in whole.items():
        assert slow[path] == pytest.approx(x * (0.125 if path in slower else 1), rel=1e-2, abs=1e-9), path


def test_a_frozen_encoder_stays_and_has_no_moments():
    far, state = one_step(**{"model.frozen_encoder": True})
    assert {path for path, x in far.items() if x == 0} >= {path for path in far if in_encoder(path)}
    assert far["cameras/front/film/project/bias"] > 0 and far["cameras/front/project/kernel"] > 0
    moments = {parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)}
    assert {path for path in far if not in_encoder(path)} <= moments
    assert not any(map(in_encoder, moments))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.frozen_encoder": True}, "'patch' starts at random; give config.model.encoder_weights"),
        (FROZEN | {"train.init_from": "runs/other"}, "both give the encoder's parameters; leave one"),
        (
            {"model.frozen_encoder": True, "train.init_from": "runs/other", "model.networks": 2},
            "the same encoder in all 2 networks",
        ),
        (
            FROZEN | {"optimizer.encoder_learning_rate": 0.1},
            "encoder_learning_rate is 0.1 of a frozen encoder",
        ),
        ({"optimizer.encoder_learning_rate": -1.0}, "encoder_learning_rate is -1.0, expected 0 or more"),
        ({"data.cache_features": True}, "cache_features needs config.model.frozen_encoder=True"),
        (
            FROZEN | {"data.cache_features": True, "data.augment.shift": 4},
            r"set \['shift'\] of config.data.augment to 0",
        ),
    ],
)
def test_what_means_nothing_together_is_refused(changes, message):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        validate(config, 1)


@pytest.mark.parametrize(
    "changes",
    [
        FROZEN | {"data.cache_features": True},
        {"model.encoder": "efficientnet_lite0", "model.frozen_encoder": True, "data.augment.shift": 4},
    ],
)
def test_what_means_something(changes):
    config = default_config()
    config.update_from_flattened_dict(changes)
    validate(config, 1)


@pytest.mark.parametrize(
    "setting, content, message",
    [
        (
            "model.encoder_weights",
            None,
            "encoder_weights is '.*from', which cannot be read as safetensors .*No such",
        ),
        ("model.encoder_weights", b"pickled", "which cannot be read as safetensors"),
        ("train.init_from", None, "init_from is '.*from', which holds no checkpoint"),
    ],
)
def test_what_a_run_starts_from_is_looked_at_before_the_data(setting, content, message, tmp_path):
    file = tmp_path / "from"
    if content is not None:
        file.write_bytes(content)
    config = default_config("bc")
    config.workdir, config.train.compilation_cache = str(tmp_path / "run"), ""
    config.update_from_flattened_dict({setting: str(file), "mesh.data": 1})
    with pytest.raises(UserError, match=message):
        loop.train(ml_collections.FrozenConfigDict(config), (), Peers())  # of no dataset
