"""A pointwise convolution as a matrix product against XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qt_jax.models import pointwise


def test_a_layer_has_the_values_and_gradients_of_xlas_convolution_and_compiles_none():
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    ours, theirs = pointwise.layer(3, 4, rngs=nnx.Rngs(0)), nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0))

    @nnx.jit
    def gradients(layer, x):
        return nnx.grad(lambda layer, x: jnp.sum(jnp.sin(layer(x))), argnums=(0, 1))(layer, x)

    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5)
    expected = jax.tree.leaves(gradients(theirs, x))
    for found, right in zip(jax.tree.leaves(gradients(ours, x)), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    assert "convolution(" not in gradients.lower(ours, x).compile().as_text()
