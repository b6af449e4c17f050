"""`make bench-lite`: EfficientNet-Lite0 with its norms as part of the convolutions, and apart from them.

Both ways take turns in one process: an encoder's forward pass and its gradient, at 64x64. The state before is
`x * scale + bias` after each convolution, with `jax.nn.relu6`. Writes experiments/results/bench_lite.json.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import runs, turns
from qt_jax.models import efficientnet
from qt_jax.models import q_transformer as model
from qt_jax.models.images import EncoderAlone

RESULTS = Path("experiments/results/bench_lite.json")
FRAMES, SIZE, REPEATS = 32, 64, 15


def apart(affine: efficientnet.Affine, conv: nnx.Conv, x: jax.Array) -> jax.Array:
    """Computes what `Affine.after` does, by the image."""
    return conv(x) * affine.scale[...].astype(affine.dtype) + affine.bias[...].astype(affine.dtype)


def ways(dtype: str) -> dict[str, turns.Way]:
    """Returns the forward pass and the gradient of the encoder as it is now, compiled."""
    config = model.laptop()
    config.update(encoder="efficientnet_lite0", image_size=SIZE, dtype=dtype)
    alone, rng = EncoderAlone(config, 16), np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.1, x.dtype), alone.params)
    images = jax.device_put(rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8))

    def loss(params: Any) -> jax.Array:
        return jnp.sum(alone(params, images).astype(jnp.float32) ** 2)

    forward = jax.jit(alone).lower(params, images).compile()
    gradient = jax.jit(jax.grad(loss)).lower(params).compile()
    return {
        "forward": lambda: jax.block_until_ready(forward(params, images)),
        "gradient": lambda: jax.block_until_ready(gradient(params)),
    }


def measure(dtype: str) -> dict[str, float]:
    """Returns the median seconds of each, now and before, and their ratios."""
    now = ways(dtype)
    unfused = dataclasses.replace(efficientnet.LITE, activation=jax.nn.relu6)
    with (
        mock.patch.object(efficientnet.Affine, "after", apart),
        mock.patch.object(efficientnet.EfficientNetLite, "STYLE", unfused),
    ):
        before = ways(dtype)
    found = turns.medians(
        {
            f"{name}, {when}": way
            for when, of in (("now", now), ("before", before))
            for name, way in of.items()
        },
        REPEATS,
    )
    return found | {name: found[f"{name}, now"] / found[f"{name}, before"] for name in now}


def main() -> None:
    commit = runs.code_commit("benchmarks")
    found = {dtype: measure(dtype) for dtype in ("float32", "bfloat16")}
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
