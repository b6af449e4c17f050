"""Image encoders conditioned on the instruction by FiLM, and TokenLearner. No batch statistics anywhere."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qt_jax import plugins, preprocess
from qt_jax.models import depthwise
from qt_jax.models.placement import by_row
from qt_jax.models.remat import rematerialised


def _groups(channels: int) -> int:
    return math.gcd(channels, 8)


def _call(block: nnx.Module, x: jax.Array, instruction: jax.Array, remat: str) -> jax.Array:
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


class ResidualBlock(nnx.Module):
    """LayerNorm over channels, 3x3 convolution, FiLM, GELU, 1x1 convolution, skip.

    On a CPU LayerNorm takes a third of GroupNorm's time.
    """

    def __init__(self, channels: int, instruction_dim: int, dtype, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(channels, dtype=dtype, rngs=rngs)
        self.conv = nnx.Conv(channels, channels, (3, 3), dtype=dtype, rngs=rngs)
        self.film = Film(instruction_dim, channels, dtype, rngs)
        self.out = nnx.Conv(channels, channels, (1, 1), dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """[B, H, W, C] and the instruction [B, E] -> [B, H, W, C]."""
        return x + self.out(jax.nn.gelu(self.film(self.conv(self.norm(x)), instruction)))


class PatchEncoder(nnx.Module):
    """Laptop size: stages of (patch, width, depth): linear patches with GELU, then `depth` residual blocks.

    There are few 3x3 convolutions, because on a CPU their gradients are the slow part of a step.
    """

    def __init__(self, config, instruction_dim: int, dtype, rngs: nnx.Rngs):
        stages, self.remat = config.patch_stages, config.encoder_remat
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
                x = _call(block, x, instruction, self.remat)
        return x


def _patches(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, H/size, W/size, size*size*C]; a rest at the right and lower edge is cut off."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, size * size * channels)


class SqueezeExcite(nnx.Module):
    """Channel gates from the spatial mean (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, dtype, rngs: nnx.Rngs):
        self.reduce = nnx.Linear(channels, squeezed, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(squeezed, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H, W, C]."""
        gate = self.expand(jax.nn.silu(self.reduce(x.mean((1, 2)))))
        return x * jax.nn.sigmoid(gate)[:, None, None, :]


class MBConv(nnx.Module):
    """EfficientNet's inverted bottleneck (Tan & Le 2019) with GroupNorm, then FiLM, as in RT-1."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expand: int,
        kernel: int,
        stride: int,
        instruction_dim: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        width = inputs * expand

        def norm(channels):
            return nnx.GroupNorm(channels, num_groups=_groups(channels), dtype=dtype, rngs=rngs)

        def conv(i, o, k=1, **options):
            return nnx.Conv(i, o, (k, k), use_bias=False, dtype=dtype, rngs=rngs, **options)

        each = {"strides": stride, "feature_group_count": width, "conv_general_dilated": depthwise.convolve}
        self.expand = nnx.List([conv(inputs, width), norm(width)] if expand > 1 else [])
        self.depthwise, self.depthwise_norm = conv(width, width, kernel, **each), norm(width)
        self.squeeze_excite = SqueezeExcite(width, max(1, inputs // 4), dtype, rngs)
        self.project, self.project_norm = conv(width, outputs), norm(outputs)
        self.film = Film(instruction_dim, outputs, dtype, rngs)
        self.residual = inputs == outputs and stride == 1

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """[B, H, W, inputs] and the instruction [B, E] -> [B, H/stride, W/stride, outputs]."""
        y = x
        if len(self.expand):
            conv, norm = self.expand
            y = jax.nn.silu(norm(conv(y)))
        y = self.squeeze_excite(jax.nn.silu(self.depthwise_norm(self.depthwise(y))))
        y = self.project_norm(self.project(y))
        return self.film(x + y if self.residual else y, instruction)


class EfficientNetB3(nnx.Module):
    """EfficientNet-B3 (Tan & Le 2019: width x1.2, depth x1.4) with FiLM after each block.

    GroupNorm replaces BatchNorm.
    """

    STAGES = (  # expand, kernel, stride, channels, repeats: B0's table scaled to B3
        (1, 3, 1, 24, 2),
        (6, 3, 2, 32, 3),
        (6, 5, 2, 48, 3),
        (6, 3, 2, 96, 5),
        (6, 5, 1, 136, 5),
        (6, 5, 2, 232, 6),
        (6, 3, 1, 384, 2),
    )

    def __init__(self, config, instruction_dim: int, dtype, rngs: nnx.Rngs):
        self.remat = config.encoder_remat
        self.stem = nnx.Conv(3, 40, (3, 3), strides=2, use_bias=False, dtype=dtype, rngs=rngs)
        self.stem_norm = nnx.GroupNorm(40, num_groups=8, dtype=dtype, rngs=rngs)
        self.blocks: nnx.List = nnx.List()
        channels = 40
        for expand, kernel, stride, outputs, repeats in self.STAGES:
            for i in range(repeats):
                shape = channels, outputs, expand, kernel, stride if i == 0 else 1
                self.blocks.append(MBConv(*shape, instruction_dim, dtype, rngs))
                channels = outputs
        self.top = nnx.Conv(channels, 1536, (1, 1), use_bias=False, dtype=dtype, rngs=rngs)
        self.top_norm = nnx.GroupNorm(1536, num_groups=8, dtype=dtype, rngs=rngs)
        self.channels = 1536

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """See `ENCODERS`."""
        x = jax.nn.silu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = _call(block, x, instruction, self.remat)
        return jax.nn.silu(self.top_norm(self.top(x)))


ENCODERS = {"patch": PatchEncoder, "efficientnet_b3": EfficientNetB3}
"""{`config.model.encoder`: class}, each made of (config.model, instruction_dim, dtype, rngs).

An encoder has `channels`, and turns images [B, H, W, 3] in [-1, 1] and instructions [B, E] into features
[B, h, w, channels].
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
    """An image encoder and TokenLearner: what makes tokens of one camera."""

    def __init__(self, config, instruction_dim: int, width: int, dtype, rngs: nnx.Rngs):
        self.image_size = (config.image_size, config.image_size)
        self.dtype = dtype
        self.encoder = encoder(config.encoder)(config, instruction_dim, dtype, rngs)
        channels = self.encoder.channels
        image = jax.ShapeDtypeStruct((1, *self.image_size, 3), jnp.float32)
        text = jax.ShapeDtypeStruct((1, instruction_dim), jnp.float32)
        grid = jax.eval_shape(lambda x, e: self.encoder(x, e), image, text).shape[1:]
        self.position = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), grid))
        self.token_learner = TokenLearner(channels, config.image_tokens, dtype, rngs)
        self.project = nnx.Linear(channels, width, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array, instruction: jax.Array) -> jax.Array:
        """Images uint8 [B, H, W, 3] and the instruction [B, E] -> [B, tokens, width]."""
        x = preprocess.images_to_float(images, self.image_size).astype(self.dtype)
        features = self.encoder(x, instruction.astype(self.dtype))
        return by_row(self.project(self.token_learner(features + self.position[...].astype(self.dtype))))
