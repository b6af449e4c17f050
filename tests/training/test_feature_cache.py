"""Features of frozen encoders: computed once a frame, and read as if the encoder had run."""

import dataclasses
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import qt_jax
from qt_jax import agents
from qt_jax.data.features import places
from qt_jax.errors import UserError
from qt_jax.export import artefact as exported
from qt_jax.models import pretrained
from qt_jax.models.images import EncoderAlone
from qt_jax.training import checkpoints, feature_cache
from tests import tiny
from tests.conftest import train
from tests.data.recipes import equal, frames_recipe, make_config, make_iterator, take
from tests.data.synthetic import BAD_FRAMES, FRAMES, FRAMES_LENGTH


@pytest.fixture(scope="module")
def recipe(synthetic_root):
    return frames_recipe(synthetic_root, max_skipped=2)


@pytest.fixture(scope="module")
def cached(recipe, tmp_path_factory):
    """A function from a seed of the encoder's parameters to the recipe with features, and the parameters."""
    folder = str(tmp_path_factory.mktemp("features"))
    config = make_config()
    config.model.frozen_encoder, config.model.image_size = True, 16
    ensemble = agents.make_ensemble(config, recipe.mixture.interface)

    def add(seed=0, **data):
        params = ensemble.init(jax.random.key(seed))
        config.data.update({"cache": folder} | data)
        arrays = pretrained.of_encoders(params, 1)
        return feature_cache.add(config, recipe, ensemble, arrays), params["cameras"]["front"]["encoder"]

    return add, EncoderAlone(config.model, recipe.mixture.interface.instruction_dim)


def test_batches_hold_what_the_encoder_makes_of_their_frames(recipe, cached):
    """Of damaged frames too: the same segments take their place, and they are counted."""
    add, alone = cached
    with_features, params = add()
    one, other = (make_iterator(pickle.loads(pickle.dumps(x))) for x in (recipe, with_features))
    encode = jax.jit(alone)
    for images, features in zip(take(one, 12), take(other, 12), strict=True):
        frames = images.images["front"]
        expected = np.asarray(encode(params, frames.reshape(-1, 16, 16, 3))).astype(np.float16)
        expected = expected.reshape(*frames.shape[:2], *alone.shape) * images.valid[..., None, None, None]
        found = features.images["front"]
        assert found.dtype == np.float16 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)
        equal(dataclasses.replace(features, images={}), dataclasses.replace(images, images={}))
    assert one.skips.count == other.skips.count == len(BAD_FRAMES)


def test_an_episode_has_the_place_of_its_frames(recipe):
    index = recipe.mixture.sources[0].index
    for shard in (0, 1):
        own = places(index)[index.columns["shard"] == shard]
        np.testing.assert_array_equal(own, np.arange(len(own)) * (FRAMES_LENGTH + 1))


def test_what_is_on_disk_is_not_computed_again(cached, capsys, monkeypatch):
    add, _ = cached
    files = add()[0].features.files[0]["front"]
    frames, size = FRAMES * (FRAMES_LENGTH + 1), sum(np.load(file).nbytes for file in files)
    assert sum(len(np.load(file)) for file in files) == frames
    capsys.readouterr()

    seen = []

    def decode(out, frames):
        seen.extend(frames)
        return np.ones(len(frames), bool)

    monkeypatch.setattr(feature_cache, "_decode", decode)
    assert add()[0].features.files[0]["front"] == files and not seen
    said = capsys.readouterr().out
    assert (
        said.startswith("features of frames: 0.") and f"{size / 2**20:,.1f}" in said and "encoded" not in said
    )

    shutil.move(files[1], f"{files[1]}.new")
    add()
    assert 0 < len(seen) < frames and f"{len(seen)} frames encoded in" in capsys.readouterr().out
    shutil.move(f"{files[1]}.new", files[1])


def test_another_encoder_has_other_files(cached, recipe):
    add, _ = cached
    own, others = (add(seed)[0].features.files[0]["front"] for seed in (0, 1))
    assert len({*own, *others}) == 4


def test_any_setting_of_the_model_counts_where_the_encoder_is_a_users(recipe):
    model = make_config().model
    for encoder, alike in (("patch", True), ("examples.my_encoder:Encoder", False)):
        model.encoder = encoder
        keys = set()
        for model.width in (8, 9):
            keys.add(feature_cache._key_of_encoder(model, {}, recipe.mixture))
        assert (len(keys) == 1) == alike


def test_a_pass_that_fails_leaves_no_file(cached, monkeypatch):
    add, _ = cached
    monkeypatch.setattr(feature_cache, "EncoderAlone", too_large(feature_cache.EncoderAlone))
    with pytest.raises(
        UserError, match="frames: features of camera 'front' are not finite in float16; let the"
    ):
        add(2)
    monkeypatch.undo()
    files = add(2)[0].features.files[0]["front"]
    assert not list(Path(files[0]).parent.glob("*.new"))


def too_large(encoder):
    class Large(encoder):
        def __call__(self, params, images):
            return super().__call__(params, images) * 1e6

    return Large


def test_where_features_cannot_be(cached, monkeypatch):
    add, _ = cached
    with pytest.raises(UserError, match="cache is gs://b/c; features are kept on a local disk"):
        add(cache="gs://b/c")
    few = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: few)
    with pytest.raises(
        UserError, match="The features need 0.0 GiB in .*, which has 0.0 GiB left; give another"
    ):
        add(3)


def frozen(config):
    config.model.frozen_encoder, config.data.cache_features = True, True
    config.train.steps, config.train.checkpoint_every = 2, 1
    config.data.validation_fraction = 0.0
    return config


def test_a_run_learns_from_features_goes_on_and_acts_on_images(dataset_path, tmp_path, capsys):
    """It goes on without the file of its encoder, whose parameters are in the checkpoint."""
    file, config = tmp_path / "eyes.safetensors", frozen(tiny.get_config("bc"))
    config.data.path, config.workdir = dataset_path, str(tmp_path / "run")
    config.data.cache = str(tmp_path / "cache")
    config.model.encoder_weights = str(file)
    given = {
        name: np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)
        for name, shape in {
            "embed/0/kernel": (192, 16), "embed/0/bias": (16,),
            "blocks/0/0/norm/scale": (16,), "blocks/0/0/norm/bias": (16,),
            "blocks/0/0/conv/kernel": (3, 3, 16, 16), "blocks/0/0/conv/bias": (16,),
            "blocks/0/0/out/kernel": (1, 1, 16, 16), "blocks/0/0/out/bias": (16,),
        }.items()
    }  # fmt: skip
    safetensors.numpy.save_file(given, file)
    train(config)
    said = capsys.readouterr().out
    assert f"{file}: 8 of 8 parameters\n" in said and " frames encoded in " in said

    file.unlink()
    config.train.steps = 3
    train(config)
    said = capsys.readouterr().out
    assert "resumed from step 2 of 3" in said and "frames encoded" not in said
    params, _, _ = checkpoints.load_params(config.workdir)
    encoders = pretrained.of_encoders(params, 1)
    for name, x in given.items():
        np.testing.assert_array_equal(encoders[f"cameras/{config.env.cameras[0]}/encoder/{name}"], x)

    policy = qt_jax.load_policy(config.workdir)
    rng = np.random.default_rng(0)
    seen = {
        key: rng.integers(0, 255, of["shape"]).astype(of["dtype"])
        for key, of in policy.observation.items()
        if "shape" in of
    }
    assert policy.infer(seen | {"prompt": "open the faucet"})["actions"].shape == (1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_a_pretrained_encoder_from_training_to_the_artefact(config, tmp_path, name):
    """The artefact is compared with its checkpoint before it is kept."""
    config.model.encoder = name
    train(frozen(config))
    artefact = exported.write(config.workdir, str(tmp_path / "policy"))
    assert artefact.about["agreement"]["max_difference"] < 1e-4
    own = {key for key in exported.flattened(checkpoints.load_params(config.workdir)[0]) if "/stem/" in key}
    assert own and own <= set(safetensors.numpy.load_file(tmp_path / "policy" / "params.safetensors"))
