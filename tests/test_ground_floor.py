"""Specs, discretisation, preprocessing, text."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax import discretization, preprocess, text
from qt_jax.data.indexing import _statistics
from qt_jax.data.parts import MOMENTS
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, Decoding, Interface, ObservationSpec, to_json
from qt_jax.statistics import Statistics

SPEC = ActionSpec(("x", "gripper"), (-1.0, 0.0), (1.0, 2.0), (64, 2))


def test_quantiser_round_trips_within_half_a_bin():
    action = np.random.default_rng(0).uniform(SPEC.low, SPEC.high, (1000, 2))
    restored = discretization.detokenize(SPEC, discretization.tokenize(SPEC, action))
    assert (np.abs(restored - action) <= np.asarray([1 / 64, 0.5]) + 1e-6).all()


def test_quantiser_bounds():
    tokens = discretization.tokenize(SPEC, np.asarray([[-9.0, -9.0], [9.0, 9.0], [1.0, 2.0]]))
    np.testing.assert_array_equal(tokens, [[0, 0], [63, 1], [63, 1]])
    restored = discretization.detokenize(SPEC, jnp.asarray(tokens))
    assert (restored >= np.asarray(SPEC.low)).all() and (restored <= np.asarray(SPEC.high)).all()


def test_a_float64_bound_that_is_the_extreme_of_float32_actions_clips_none():
    values = np.random.default_rng(0).uniform(-1, 1, (500, 40))
    spec = ActionSpec([f"a{i}" for i in range(40)], values.min(0), values.max(0), [256] * 40)
    actions = values.astype(np.float32)
    assert not np.any(discretization.beyond(spec, actions)) and np.any(actions > values.max(0))
    below, above = discretization.beyond(spec, np.stack([actions[0] - 4, actions[0] + 4]))
    np.testing.assert_array_equal(below, [[True] * 40, [False] * 40])
    np.testing.assert_array_equal(above, ~below)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((("x",), (0.0,), (0.0,), (4,)), "low 0.0 >= high 0.0"),
        ((("x",), (0.0,), (1.0,), (1,)), "1 bins"),
        ((("x", "y"), (0.0,), (1.0,), (4,)), "lengths 2, 1, 1, 1"),
        ((("x", "y", "x"), (0.0,) * 3, (1.0,) * 3, (4,) * 3), "'x'.* name more than one dim"),
    ],
)
def test_bad_action_specs_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        ActionSpec(*arguments)


def test_a_chunk_is_an_action_of_the_dims_of_its_actions():
    own = Interface(SPEC, ObservationSpec((), (8, 8), 1, ""), 4, chunk=3, execute=2)
    assert own.decision.names == ("x", "gripper", "x+1", "gripper+1", "x+2", "gripper+2")
    assert (own.decision.bins, own.executed.names) == ((64, 2) * 3, own.decision.names[:4])
    assert Interface.from_json(to_json(own)) == own
    for execute in (0, 4):
        with pytest.raises(UserError, match=f"chunk is 3, execute {execute}; give 1 <= execute <= chunk"):
            dataclasses.replace(own, execute=execute)


def statistics_of(values):
    moments = (len(values), values.sum(0), np.square(values).sum(0), values.min(0), values.max(0))
    return _statistics([dict(zip(MOMENTS, moments))], values)


def test_statistics_round_trip_and_refuse_tampering():
    values = np.random.default_rng(0).normal(3, 2, (500, 4))
    statistics = statistics_of(values)
    np.testing.assert_allclose(statistics.std, values.std(0))
    np.testing.assert_allclose(statistics.q99, np.quantile(values, 0.99, axis=0))
    normalised = statistics.normalize(np.full((1, 4), 3.0))
    assert np.abs(normalised).max() < 0.2
    saved = statistics.to_json()
    assert Statistics.from_json(saved) == statistics
    with pytest.raises(UserError, match="fingerprint"):
        Statistics.from_json(saved | {"mean": [0.0] * 4})
    with pytest.raises(UserError, match="std"):
        Statistics.from_json({k: v for k, v in saved.items() if k != "std"})


def test_constant_state_entries_become_zero():
    statistics = statistics_of(np.full((10, 1), 1000.1))
    np.testing.assert_array_equal(statistics.normalize(np.asarray([1000.1])), [0.0])


def test_windows_are_the_last_frames_oldest_first():
    x = jnp.arange(1, 5).reshape(1, 4)
    np.testing.assert_array_equal(preprocess.windows(x, 3)[0], [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]])
    np.testing.assert_array_equal(preprocess.windows(x, 2, 2)[0], [[0, 1], [0, 2], [1, 3], [2, 4]])


def test_images_to_float_scales_and_resizes():
    images = np.full((2, 8, 8, 3), 255, np.uint8)
    np.testing.assert_allclose(preprocess.images_to_float(images, (4, 4)), np.ones((2, 4, 4, 3)), atol=1e-6)


def letters(sentence):
    """An encoder of the user's."""
    return np.asarray([len(sentence)])


def test_text_embedding_knows_a_paraphrase_from_another_task():
    near, far = text.embed("open the drawer"), text.embed("insert the peg")

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    paraphrase = text.embed("pull the drawer open")
    assert near.shape == (text.DIM,) and cosine(near, paraphrase) > cosine(near, far)
    with pytest.raises(UserError, match="other-encoder"):
        text.embed("open the drawer", encoder="other-encoder")
    np.testing.assert_array_equal(
        text.embed("open the drawer", encoder="tests.test_ground_floor:letters"), [15]
    )
    with pytest.raises(UserError, match="empty"):
        text.embed(" ")
    with pytest.raises(UserError, match="failed on 'go' .TypeError"):
        text.embed("go", encoder="math:sqrt")
    with pytest.raises(UserError, match=r"an array of shape \[\] for 'go'"):
        text.embed("go", encoder="builtins:len")


@pytest.mark.parametrize(
    "text, decoding, shown",
    [
        ("greedy", Decoding(), "greedy"),
        ("beam", Decoding("beam", 4), "beam:4"),
        ("beam:2", Decoding("beam", 2), "beam:2"),
        ("rank", Decoding("rank", 16), "rank:16:1"),
        ("rank:3", Decoding("rank", 3), "rank:3:1"),
        ("rank:3:0.25", Decoding("rank", 3, 0.25), "rank:3:0.25"),
        ("sample", Decoding("sample"), "sample:1"),
        ("sample:0.25", Decoding("sample", 1, 0.25), "sample:0.25"),
    ],
)
def test_a_decoding_is_read_from_its_text(text, decoding, shown):
    assert Decoding.read(text) == decoding and str(decoding) == shown and Decoding.read(shown) == decoding


@pytest.mark.parametrize(
    "text", ["", "best", "greedy:2", "beam:0", "beam:-1", "beam:1.5", "beam:4:0.7", "sample:0"]
)
def test_what_is_no_decoding_is_one_line_that_says_what_is(text):
    with pytest.raises(UserError) as caught:
        Decoding.read(text)
    assert str(caught.value).startswith(f"decode is {text!r}; give 'greedy', 'beam:4' (")


@pytest.mark.parametrize("numbers", ["x", "4:0", "4:nan", "4:inf", "4:1:1"])
def test_a_rank_needs_a_whole_number_and_a_temperature_above_0(numbers):
    with pytest.raises(UserError, match=f"decode is 'rank:{numbers}'; give"):
        Decoding.read(f"rank:{numbers}")
