"""Language in an image encoder: FiLM, and blocks that are called with the instruction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from qt_jax.models.placement import by_row
from qt_jax.models.remat import rematerialised


def told(config, instruction_dim: int) -> int:
    """Returns the length of the instruction that an encoder's blocks see; 0: none.

    Language acts on what a frozen encoder gives (`ImageTokenizer`), so that its features are those of the
    image alone.
    """
    return 0 if config.frozen_encoder else instruction_dim


def call(block: nnx.Module, x: jax.Array, instruction: jax.Array, remat: str) -> jax.Array:
    """Calls an encoder's block; `remat` is one of `remat.POLICIES`."""
    graphdef, params = nnx.split(block)

    def apply(params, x, instruction):
        return by_row(nnx.merge(graphdef, params)(x, instruction))

    return rematerialised(apply, remat)(params, x, instruction)


class Film(nnx.Module):
    """x * (1 + gamma) + beta, gamma and beta from the instruction (FiLM, Perez et al. 2018).

    It starts as the identity, as in RT-1.
    """

    def __init__(self, instruction_dim: int, channels: int, dtype, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.project = nnx.Linear(instruction_dim, 2 * channels, kernel_init=zeros, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """Modulates features [B, H, W, C] by the instruction [B, E]."""
        gamma, beta = jnp.split(self.project(instruction)[:, None, None, :], 2, axis=-1)
        return x * (1 + gamma) + beta
