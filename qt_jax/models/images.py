"""Image encoders conditioned on the instruction by FiLM, and TokenLearner. No batch statistics anywhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qt_jax import plugins, preprocess
from qt_jax.models import film, pointwise
from qt_jax.models.efficientnet import EfficientNetB3, EfficientNetLite0, EfficientNetLite2
from qt_jax.models.film import Film
from qt_jax.models.placement import by_row


class ResidualBlock(nnx.Module):
    """LayerNorm over channels, 3x3 convolution, FiLM, GELU, 1x1 convolution, skip.

    On a CPU LayerNorm takes a third of GroupNorm's time.
    """

    def __init__(self, channels: int, instruction_dim: int, dtype, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.conv = nnx.Conv(channels, channels, (3, 3), dtype=dtype, rngs=rngs)
        self.film = Film(instruction_dim, channels, dtype, rngs) if instruction_dim else None
        self.out = pointwise.layer(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """[B, H, W, C] and the instruction [B, E] -> [B, H, W, C]."""
        y = self.conv(self.norm(x))
        return x + self.out(jax.nn.gelu(self.film(y, instruction) if self.film else y))


class PatchEncoder(nnx.Module):
    """Laptop size: stages of (patch, width, depth): linear patches with GELU, then `depth` residual blocks.

    There are few 3x3 convolutions, because on a CPU their gradients are the slow part of a step.
    """

    def __init__(self, config, instruction_dim: int, dtype, rngs: nnx.Rngs):
        stages, self.remat = config.patch_stages, config.encoder_remat
        instruction_dim = film.told(config, instruction_dim)
        self.patches = tuple(patch for patch, _, _ in stages)
        self.embed: nnx.List = nnx.List()
        self.blocks: nnx.List = nnx.List()
        channels = 3
        for patch, width, depth in stages:
            self.embed.append(nnx.Linear(patch * patch * channels, width, dtype=dtype, rngs=rngs))
            self.blocks.append(
                nnx.List([ResidualBlock(width, instruction_dim, dtype, rngs) for _ in range(depth)])
            )
            channels = width
        self.channels = channels

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """See `ENCODERS`."""
        for patch, embed, blocks in zip(self.patches, self.embed, self.blocks):
            x = by_row(jax.nn.gelu(embed(_patches(x, patch))))
            for block in blocks:
                x = film.call(block, x, instruction, self.remat)
        return x


def _patches(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/size, W/size, size*size*C]; a rest at the right and lower edge is cut off."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, size * size * channels)


ENCODERS = {
    "patch": PatchEncoder,
    "efficientnet_b3": EfficientNetB3,
    "efficientnet_lite0": EfficientNetLite0,
    "efficientnet_lite2": EfficientNetLite2,
}
"""{`config.model.encoder`: class}, each made of (config.model, instruction_dim, dtype, rngs).

An encoder has `channels`, and turns images [B, H, W, 3] in [-1, 1] and instructions [B, E] into features
[B, h, w, channels]. A frozen one (`config.model.frozen_encoder`) gets instructions of zeros. It may have
`pretrained` (see models/pretrained.py).
"""


def encoder(name: str) -> Any:
    """Returns the class of `config.model.encoder`: one of `ENCODERS`, or "module:Class" of a user's.

    Raises:
        UserError: for a name that is neither.

    """
    return plugins.find("config.model.encoder", name, ENCODERS)


class TokenLearner(nnx.Module):
    """Tokens that are softmax-weighted means of the locations (Ryoo et al. 2021)."""

    def __init__(self, channels: int, tokens: int, dtype, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(channels, 64, dtype=dtype, rngs=rngs)
        # A bias would change nothing in the softmax.
        self.select = nnx.Linear(64, tokens, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, tokens, C]."""
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        logits = self.select(jax.nn.gelu(self.hidden(self.norm(x)))).astype(jnp.float32)
        weights = jax.nn.softmax(logits, axis=1)
        return jnp.einsum("bpc,bpt->btc", x, weights.astype(x.dtype))


class ImageTokenizer(nnx.Module):
    """An image encoder and TokenLearner: what makes tokens of one camera.

    A frozen encoder sees no instruction: FiLM is on its features.
    """

    def __init__(self, config, instruction_dim: int, width: int, dtype, rngs: nnx.Rngs):
        self.image_size = (config.image_size, config.image_size)
        self.dtype, self.instruction_dim = dtype, instruction_dim
        self.encoder = encoder(config.encoder)(config, instruction_dim, dtype, rngs)
        channels = self.encoder.channels
        image = jax.ShapeDtypeStruct((1, *self.image_size, 3), jnp.float32)
        text = jax.ShapeDtypeStruct((1, instruction_dim), jnp.float32)
        grid = jax.eval_shape(lambda x, e: self.encoder(x, e), image, text).shape[1:]
        self.position = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), grid))
        self.token_learner = TokenLearner(channels, config.image_tokens, dtype, rngs)
        self.project = nnx.Linear(channels, width, dtype=dtype, rngs=rngs)
        self.film = Film(instruction_dim, channels, dtype, rngs) if config.frozen_encoder else None

    def __call__(self, images: jax.Array, instruction: jax.Array) -> jax.Array:
        """Images uint8 [B, H, W, 3] and the instruction [B, E] -> [B, tokens, width].

        Of a frozen encoder also its features [B, h, w, C] in place of images.
        """
        instruction = instruction.astype(self.dtype)
        if self.film is None:
            features = self._encoded(images, instruction)
        else:
            features = self.film(self.frozen_features(images).astype(self.dtype), instruction)
        return by_row(self.project(self.token_learner(features + self.position[...].astype(self.dtype))))

    def frozen_features(self, images: jax.Array) -> jax.Array:
        """Images uint8 [B, H, W, 3] -> what a frozen encoder makes of them [B, h, w, C].

        Features stay as they are.
        """
        if images.dtype != jnp.uint8:
            return images
        return self._encoded(images, jnp.zeros((images.shape[0], self.instruction_dim), self.dtype))

    def _encoded(self, images: jax.Array, instruction: jax.Array) -> jax.Array:
        return _encoded(self.encoder, images, instruction, self.image_size)


def _encoded(encoder: Any, images: jax.Array, instruction: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Images uint8 [B, H, W, 3] of any size -> features [B, h, w, C], in the instruction's dtype."""
    return encoder(preprocess.images_to_float(images, size).astype(instruction.dtype), instruction)


class EncoderAlone:
    """An image encoder as a function of its parameters, told no instruction: what a frozen one computes.

    Args:
        config: the experiment's `config.model`.
        instruction_dim: length of an instruction, of which the encoder gets zeros.

    """

    def __init__(self, config: Any, instruction_dim: int):
        self._size, dtype = (config.image_size, config.image_size), jnp.dtype(config.dtype)
        made_by = encoder(config.encoder)
        self._blank = jax.ShapeDtypeStruct((instruction_dim,), dtype)
        self._graphdef, params = nnx.split(
            nnx.eval_shape(lambda: made_by(config, instruction_dim, dtype, nnx.Rngs(0)))
        )
        self.params = nnx.to_pure_dict(params)
        """{...: ShapeDtypeStruct}, the parameters that it takes."""

    def __call__(self, params: dict, images: jax.Array) -> jax.Array:
        """Computes the features [B, h, w, C] of images uint8 [B, H, W, 3]."""
        blank = jnp.zeros((images.shape[0], *self._blank.shape), self._blank.dtype)
        return _encoded(nnx.merge(self._graphdef, params), images, blank, self._size)

    @property
    def shape(self) -> tuple[int, ...]:
        """(h, w, C)."""
        image = jax.ShapeDtypeStruct((1, *self._size, 3), jnp.uint8)
        return jax.eval_shape(self, self.params, image).shape[1:]
