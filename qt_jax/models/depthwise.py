"""Depthwise convolution with a program of its own for CPUs.

There a sum of shifted products is some 20 times faster than XLA's grouped convolution and its gradients.
Elsewhere it is XLA's. The choice is made when a program is compiled, so an exported policy has both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str, **rest: Any
) -> jax.Array:
    """Convolves [B, H, W, C] with a kernel [k, k, 1, C], with equal strides and "SAME" padding.

    For `nnx.Conv(..., feature_group_count=C, conv_general_dilated=convolve)`.
    """
    assert padding == "SAME" and strides[0] == strides[1] and kernel.shape[2:] == (1, x.shape[-1]), (
        "not a depthwise convolution of ours"
    )
    return _depthwise(x, kernel, strides[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted, stride=stride),
        default=functools.partial(_grouped, stride=stride),
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, inputs: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    def grouped(x, kernel, dy):
        return jax.vjp(functools.partial(_grouped, stride=stride), x, kernel)[1](dy)

    return jax.lax.platform_dependent(
        *inputs, dy, cpu=functools.partial(_shifted_gradients, stride=stride), default=grouped
    )


_depthwise.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
    )


def _padding(size: int, k: int, stride: int) -> tuple[int, int]:
    """Returns how much "SAME" pads before and after."""
    total = max((-(-size // stride) - 1) * stride + k - size, 0)
    return total // 2, total - total // 2


def _padded(x: jax.Array, k: int, stride: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), _padding(x.shape[1], k, stride), _padding(x.shape[2], k, stride), (0, 0)))


def _taps(k: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(k) for j in range(k))


def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Sums over the kernel's taps the shifted image times the tap, in float32 at least."""
    k, (rows, columns) = kernel.shape[0], (-(-n // stride) for n in x.shape[1:3])
    padded = _padded(x, k, stride)

    def product(i: int, j: int) -> jax.Array:
        shifted = padded[:, i : i + (rows - 1) * stride + 1 : stride]
        window = shifted[:, :, j : j + (columns - 1) * stride + 1 : stride]
        return window * kernel[i, j, 0].astype(jnp.promote_types(x.dtype, jnp.float32))

    return _summed(product(i, j) for i, j in _taps(k)).astype(x.dtype)


def _summed(terms: Iterator[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms, jnp.zeros((), jnp.float32))


def _margins(size: int, k: int, stride: int) -> tuple[int, int, int]:
    """Returns how to pad the outputs, before, after and between them, for the gradient of the input.

    Each input then finds at tap (i, j) the output that saw it there.
    """
    before = _padding(size, k, stride)[0]
    last = (-(-size // stride) - 1) * stride  # where the last output's window begins, in the padded image
    return k - 1 - before, size - 1 + before - last, stride - 1


def _shifted_gradients(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, stride: int
) -> tuple[jax.Array, jax.Array]:
    k, (rows, columns) = kernel.shape[0], dy.shape[1:3]
    spread = jax.lax.pad(
        dy,
        jnp.zeros((), dy.dtype),
        ((0, 0, 0), _margins(x.shape[1], k, stride), _margins(x.shape[2], k, stride), (0, 0, 0)),
    )

    def product(i: int, j: int) -> jax.Array:
        window = spread[:, i : i + x.shape[1], j : j + x.shape[2]]
        return window * kernel[k - 1 - i, k - 1 - j, 0].astype(jnp.promote_types(x.dtype, jnp.float32))

    dx = _summed(product(i, j) for i, j in _taps(k))

    padded = _padded(x, k, stride)

    def add_row(total: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        """Adds the taps' products of one row: all pixels at once would be read from memory for each tap."""

        def of(array, index):
            return jax.lax.dynamic_index_in_dim(array, index, axis=1, keepdims=False).astype(total.dtype)

        outputs = of(dy, row)
        windows = (
            of(padded, row * stride + i)[:, j : j + (columns - 1) * stride + 1 : stride] for i, j in _taps(k)
        )
        return total + jnp.stack([jnp.sum(window * outputs, axis=(0, 1)) for window in windows]), None

    start = jnp.zeros((k * k, x.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    dkernel = jax.lax.scan(add_row, start, jnp.arange(rows))[0]
    return dx.astype(x.dtype), dkernel.reshape(kernel.shape).astype(kernel.dtype)
