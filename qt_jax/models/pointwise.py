"""A convolution of single places as a matrix product, which is what it is."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx


def layer(inputs: int, outputs: int, **options: Any) -> nnx.Conv:
    """Makes a 1x1 convolution of [B, H, W, inputs]; `options` are those of `nnx.Conv`.

    On CPUs XLA makes the gradient of its own convolution one with a window as large as the image, which takes
    several times as long.
    """
    return nnx.Conv(inputs, outputs, (1, 1), conv_general_dilated=_convolve, **options)


def _convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Any, **rest: Any
) -> jax.Array:
    assert set(strides) == {1}, "a pointwise convolution has a stride of 1"
    return x @ kernel[0, 0]
