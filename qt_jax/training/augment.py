"""Image augmentation inside the jitted step.

The same key gives the same result. The frames of a segment change together.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import dm_pix as pix
import jax
import jax.numpy as jnp
import ml_collections

from qt_jax.segment import Segment


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults, with which nothing is changed."""
    config = ml_collections.ConfigDict()
    config.shift = 0  # pixels in each direction, edges repeated: a random crop (DrQ: Kostrikov et al. 2020)
    config.brightness = 0.0  # added: up to this share of the range
    config.contrast = 0.0  # factor from 1 - this to 1 + this
    config.saturation = 0.0  # the same
    config.hue = 0.0  # turned by up to this share of the circle
    return config


def augment(segment: Segment, key: jax.Array, settings: Any) -> Segment:
    """Shifts and recolours a segment's images, each camera by draws of its own.

    Args:
        segment: images uint8 [B, S, H, W, 3].
        key: of the draws.
        settings: `config.data.augment`.

    """
    images = dict(segment.images)
    for number, name in enumerate(sorted(images)):
        shift_key, colour_key = jax.random.split(jax.random.fold_in(key, number))
        frames = jnp.asarray(images[name])
        if settings.shift:
            frames = _shifted(frames, shift_key, settings.shift)
        if settings.brightness or settings.contrast or settings.saturation or settings.hue:
            frames = _recoloured(frames, colour_key, settings)
        images[name] = frames
    return dataclasses.replace(segment, images=images)


def _shifted(frames: jax.Array, key: jax.Array, pixels: int) -> jax.Array:
    """Shifts frames uint8 [B, S, H, W, 3] by up to so many pixels."""

    def shift(frames: jax.Array, offset: jax.Array) -> jax.Array:
        padded = jnp.pad(frames, [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)], mode="edge")
        return jax.lax.dynamic_slice(padded, (0, offset[0], offset[1], 0), frames.shape)

    return jax.vmap(shift)(frames, jax.random.randint(key, (frames.shape[0], 2), 0, 2 * pixels + 1))


def _recoloured(frames: jax.Array, key: jax.Array, settings: Any) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of frames uint8 [B, S, H, W, 3], in this order."""

    def recolour(frames: jax.Array, amounts: jax.Array) -> jax.Array:
        x = frames.astype(jnp.float32) / 255.0
        if settings.brightness:
            x = pix.adjust_brightness(x, amounts[0] * settings.brightness)
        if settings.contrast:
            x = pix.adjust_contrast(x, 1.0 + amounts[1] * settings.contrast)
        x = jnp.clip(x, 0.0, 1.0)
        if settings.saturation:
            x = jnp.clip(pix.adjust_saturation(x, 1.0 + amounts[2] * settings.saturation), 0.0, 1.0)
        if settings.hue:
            x = pix.adjust_hue(x, amounts[3] * settings.hue)
        return jnp.round(jnp.clip(x, 0.0, 1.0) * 255.0).astype(frames.dtype)

    return jax.vmap(recolour)(frames, jax.random.uniform(key, (frames.shape[0], 4), minval=-1.0, maxval=1.0))
