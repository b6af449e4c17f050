"""Image augmentation inside the jitted step: same key, same result; one draw a segment, so that its frames move together."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from qt_jax.specs import Segment


def random_shift(segment: Segment, key: jax.Array, pixels: int) -> Segment:
    """Moves all frames of a segment by up to `pixels` in each direction, edges repeated (random shift: Kostrikov et al. 2020, DrQ)."""

    def shift(frames: jax.Array, offset: jax.Array) -> jax.Array:
        padded = jnp.pad(frames, [(0, 0), (pixels, pixels), (pixels, pixels), (0, 0)], mode="edge")
        return jax.lax.dynamic_slice(padded, (0, offset[0], offset[1], 0), frames.shape)

    offsets = jax.random.randint(key, (segment.tokens.shape[0], 2), 0, 2 * pixels + 1)
    return dataclasses.replace(segment, images={name: jax.vmap(shift)(frames, offsets) for name, frames in segment.images.items()})
