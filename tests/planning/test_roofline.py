"""What a program computes and moves, against numbers worked out by hand; and the times that follow."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import learner_step
from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.models import depthwise
from qt_jax.planning import roofline, traffic
from qt_jax.planning.roofline import Bounds, Part
from qt_jax.planning.traffic import Work
from qt_jax.training.chips import CHIPS, Chip
from tests import tiny

F32 = 4


def counted(function, *shapes, dtype=jnp.float32):
    work = traffic.of(function, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes))
    return work.flops, work.bytes


def test_a_product_reads_its_operands_and_writes_its_result():
    product = 2 * 4 * 8 * 16, F32 * (4 * 8 + 8 * 16 + 4 * 16)
    assert counted(jnp.matmul, (4, 8), (8, 16)) == product
    assert counted(jax.jit(jnp.matmul), (4, 8), (8, 16), dtype=jnp.bfloat16) == (product[0], product[1] / 2)


def test_what_is_elementwise_is_part_of_the_kernel_that_reads_it():
    """The relu of the first product [4, 16] is read, the second's result [4, 2] is written."""

    def two_layers(x, first, second):
        return jax.nn.relu(x @ first + 1.0) @ second

    flops = 2 * 4 * 16 * (8 + 2)
    assert counted(two_layers, (4, 8), (8, 16), (16, 2)) == (
        flops,
        F32 * (4 * 8 + 8 * 16 + 4 * 16 + 4 * 16 + 16 * 2 + 4 * 2),
    )


def test_an_operand_that_is_made_of_less_is_read_as_that():
    """A row [8] that becomes [4, 8] in the kernel; one-hot vectors [4, 1000] of four integers."""
    assert counted(lambda row, w: jnp.broadcast_to(row, (4, 8)) @ w, (8,), (8, 2))[1] == F32 * (8 + 16 + 8)
    tokens, table = jax.ShapeDtypeStruct((4,), jnp.int32), jax.ShapeDtypeStruct((1000, 2), jnp.float32)
    looked_up = traffic.of(lambda tokens, table: jax.nn.one_hot(tokens, 1000) @ table, tokens, table)
    assert looked_up.bytes == 4 * 4 + F32 * (2000 + 8)


def test_mean_and_mean_of_squares_read_an_array_once():
    """And what is returned is one pass: x [64] again with both, and the result [64] written."""

    def normalised(x):
        mean, square = x.mean(), (x * x).mean()
        return (x - mean) / jnp.sqrt(square - mean**2)

    assert counted(normalised, (64,)) == (0, F32 * (64 + 1 + 1 + (64 + 1 + 1) + 64))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_compute_the_same(stride):
    """Zeros between the pixels of a strided gradient are no products; those around an image are."""

    def convolved(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    image, kernel, out = (2, 8, 8, 3), (4, 4, 3, 5), (2, 8 // stride, 8 // stride, 5)
    flops = 2 * np.prod(out) * 4 * 4 * 3
    size = F32 * (np.prod(image) + np.prod(kernel) + np.prod(out))
    assert counted(convolved, image, kernel) == (flops, size)

    def gradients(x, kernel, cotangent):
        return jax.vjp(convolved, x, kernel)[1](cotangent)

    # dx reads dy and kernel, dkernel reads x and dy.
    assert counted(gradients, image, kernel, out) == (2 * flops, 2 * size)


def test_of_a_depthwise_convolution_the_accelerators_program_counts():
    image, kernel = (2, 8, 8, 6), (3, 3, 1, 6)

    def convolved(x, kernel):
        return depthwise.convolve(x, kernel, (1, 1), "SAME")

    def gradients(x, kernel, cotangent):
        return jax.vjp(convolved, x, kernel)[1](cotangent)

    flops, size = 2 * np.prod(image) * 9, F32 * (2 * np.prod(image) + np.prod(kernel))
    assert counted(convolved, image, kernel) == (flops, size)
    assert counted(gradients, image, kernel, image) == (2 * flops, 2 * size)


def test_a_loop_counts_as_often_as_it_runs():
    """Each turn multiplies [4, 8] with its own matrix [8, 8], which its tanh hands on."""

    def loop(x, matrices):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, matrices)[0]

    turn = 2 * 4 * 8 * 8, F32 * (4 * 8 + 8 * 8 + 4 * 8) + F32 * (4 * 8 + 4 * 8)
    assert counted(loop, (4, 8), (5, 8, 8)) == (5 * turn[0], 5 * turn[1])


def test_what_is_computed_again_counts_again():
    """The gradient of a product is two products; with the block's rematerialisation the first is repeated."""

    def loss(block, x, w, other):
        return jnp.sum(block(x, w) @ other)

    def block(x, w):
        return jnp.tanh(x @ w)

    shapes = (4, 8), (8, 8), (8, 1)
    once, again = (
        counted(jax.grad(functools.partial(loss, of), argnums=(1, 2)), *shapes)[0]
        for of in (block, jax.checkpoint(block))
    )
    assert again - once == 2 * 4 * 8 * 8


def test_of_alternatives_the_greater_counts():
    def either(x, w):
        return lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x[:, :2])

    assert counted(either, (4, 8), (8, 2))[0] == 2 * 4 * 8 * 2


@pytest.mark.parametrize("function, named", [
    (lambda x: lax.while_loop(lambda x: x[0] < 1, lambda x: 2 * x, x), "a loop whose length"),
    (lambda x: jax.pure_callback(np.sin, x, x), "'pure_callback'"),
])  # fmt: skip
def test_what_cannot_be_counted_is_named(function, named):
    with pytest.raises(UserError, match=named):
        counted(function, (4,))


def test_which_bound_binds_and_how_much_of_the_peak_is_used_at_best():
    """10 FLOP/s and 2 bytes/s: 40 FLOP take 4 s, 10 bytes 5 s, and 20 FLOP that are needed are 2 s of 5."""
    chip = Chip(flops=10.0, memory=1.0, bandwidth=2.0, interconnect=1.0, network=1.0)
    found = Part(Work(40.0, 10.0), 20.0).on(chip)
    assert found == Bounds(4.0, 5.0, 2 / 5) and (found.least_s, found.by) == (5.0, "memory")
    found = Part(Work(40.0, 8.0), 40.0).on(chip)
    assert found == Bounds(4.0, 4.0, 1.0) and found.by == "compute"


FRAMES, PLACES = 8 * 6, 4 * 4
EMBED, CONV, OUT, FILM = PLACES * 8 * 8 * 3 * 16, PLACES * 9 * 16 * 16, PLACES * 16 * 16, 512 * 2 * 16
"""Products of tests/tiny.py's encoder, for each of its frames."""


def test_of_a_config_the_encoders_agree_with_a_count_by_hand():
    """Two forward passes; the gradients of the last three products and, but for the images, their inputs'.

    With `encoder_remat` the block's backward pass needs its 3x3 convolution and its FiLM again.
    """
    config = tiny.get_config()
    config.model.encoder_remat, config.mesh.fsdp = "full", 8
    found = roofline.of_config(config)
    step, encoders = found["step"], found["image encoders"]
    assert encoders.needed == 2 * FRAMES * (3 * (EMBED + FILM) + 4 * (CONV + OUT))
    assert encoders.work.flops - encoders.needed == 2 * FRAMES * (CONV + FILM)
    assert step.work.flops - step.needed == 2 * FRAMES * (CONV + FILM)
    assert step.work.flops > encoders.work.flops and step.work.bytes > encoders.work.bytes
    text = roofline.report(found)
    assert re.search(r"image encoders +[\d.]+ GFLOP \([\d.]+ with what is computed again\)", text)
    for name in CHIPS:
        assert re.search(rf"^  {name} +step .* memory +\d+%", text, re.M), text


def test_frozen_encoders_pass_forward_once_and_kept_features_not_at_all():
    """Without FiLM inside, whatever the number of networks."""
    config = tiny.get_config()
    config.model.frozen_encoder, config.model.networks = True, 2
    ensemble = agents.make_ensemble(config, learner_step.interface_of(config))
    assert roofline.of_encoders(config, ensemble).flops == 2 * FRAMES * (EMBED + CONV + OUT)
    config.data.cache_features = True
    assert roofline.of_encoders(config, ensemble) == Work()
