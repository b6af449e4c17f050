"""The CPU's program of a depthwise convolution against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qt_jax.models import depthwise


@pytest.mark.parametrize("height, width", [(8, 8), (7, 10)])
@pytest.mark.parametrize("k, stride", [(3, 1), (5, 1), (3, 2), (5, 2)])
def test_values_and_gradients_are_those_of_the_grouped_convolution(height, width, k, stride):
    rng = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in [(2, height, width, 6), (k, k, 1, 6)]
    )

    def ours(x, kernel):
        return depthwise.convolve(x, kernel, (stride, stride), "SAME")

    def theirs(x, kernel):
        return depthwise._grouped(x, kernel, stride)

    np.testing.assert_allclose(ours(x, kernel), theirs(x, kernel), atol=1e-5)

    def gradients(f):
        return jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel))), argnums=(0, 1)))(x, kernel)

    for mine, expected in zip(gradients(ours), gradients(theirs)):
        np.testing.assert_allclose(mine, expected, atol=1e-4)


def test_the_cpu_compiles_no_grouped_convolution():
    step = jax.jit(
        jax.grad(
            lambda x, kernel: jnp.sum(depthwise.convolve(x, kernel, (1, 1), "SAME") ** 2), argnums=(0, 1)
        )
    )
    text = step.lower(jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 1, 6))).compile().as_text()
    assert " convolution(" not in text


def test_bfloat16_sums_in_float32():
    x, kernel = jnp.full((1, 64, 64, 2), 1.0, jnp.bfloat16), jnp.full((3, 3, 1, 2), 0.01, jnp.bfloat16)
    gradient = jax.grad(
        lambda kernel: jnp.sum(depthwise.convolve(x, kernel, (1, 1), "SAME").astype(jnp.float32))
    )(kernel)
    assert gradient.dtype == jnp.bfloat16 and float(gradient[1, 1, 0, 0]) == pytest.approx(64 * 64, rel=0.01)
