"""Preparation of images and of windows of past frames, the same in training and serving.

The state is normalised in statistics.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.segment import Array


def images_to_float(images: Array, size: tuple[int, int]) -> Array:
    """Scales images to float32 in [-1, 1] and resizes them to `size` (bilinear, antialiased).

    Args:
        images: uint8 [..., H, W, 3].
        size: height and width of the result.

    """
    images = jnp.asarray(images, jnp.float32) / 127.5 - 1.0
    if images.shape[-3:-1] != tuple(size):
        images = jax.image.resize(images, (*images.shape[:-3], *size, images.shape[-1]), "bilinear")
    return images


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image on the CPU, uint8 [H, W, 3] to uint8 [*size, 3] (bilinear, antialiased).

    So the data pipeline brings cameras of several sizes to one.
    """
    if image.shape[:2] == tuple(size):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def windows(x: Array, window: int, apart: int = 1) -> Array:
    """Stacks the last `window` entries of each step: [B, S, ...] to [B, S, window, ...].

    Step s holds the entries .., s - apart, s, the oldest first; zeros stand before the start.
    """
    before = (window - 1) * apart
    padded = jnp.pad(x, [(0, 0), (before, 0)] + [(0, 0)] * (x.ndim - 2))
    return jnp.stack([padded[:, at : at + x.shape[1]] for at in range(0, before + 1, apart)], axis=2)
