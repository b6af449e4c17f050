"""An image encoder of your own in one file: three convolutions, with the instruction added to the last.

    python -m qt_jax train --config=examples/my_encoder.py

An encoder is a Flax NNX module with `channels`, from images [B, H, W, 3] in [-1, 1] and embedded instructions
[B, E] to features [B, h, w, channels]. It must not use batch statistics: they break sharding and the cache of
a control step. A class method `pretrained(config)` may return the parameters that it begins with, by path,
such as "convolutions/0/kernel" (docs/eyes.md).
"""

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from experiments import quickstart


class Encoder(nnx.Module):
    def __init__(self, config, instruction_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        def convolution(before: int, after: int) -> nnx.Conv:
            return nnx.Conv(before, after, (3, 3), strides=2, dtype=dtype, rngs=rngs)

        self.channels = 48
        self.convolutions = nnx.List([convolution(3, 16), convolution(16, 32), convolution(32, 48)])
        self.instruction = nnx.Linear(instruction_dim, self.channels, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, instruction: jax.Array) -> jax.Array:
        features = images
        for convolution in self.convolutions:
            features = jax.nn.gelu(convolution(features))
        return features + self.instruction(instruction)[:, None, None]


def get_config() -> ml_collections.ConfigDict:
    config = quickstart.get_config()
    config.model.encoder = "examples.my_encoder:Encoder"  # this file, as Python finds it from where you start
    config.workdir = "runs/quickstart/my_encoder"
    return config
