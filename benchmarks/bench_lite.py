"""`make bench-lite`: EfficientNet-Lite0 with its norms as part of the convolutions, and apart from them.

Both ways take turns in one process: an encoder's forward pass and its gradient, float32, at 64x64. The state
before is `x * scale + bias` after each convolution, with `jax.nn.relu6`. Beside the seconds are the bytes
that planning/traffic.py counts. Writes experiments/results/bench_lite.json.
"""

from __future__ import annotations

import dataclasses
import functools
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
from qt_jax.planning import traffic

RESULTS = Path("experiments/results/bench_lite.json")
FRAMES, SIZE, REPEATS = 64, 64, 9


def apart(affine: efficientnet.Affine, conv: nnx.Conv, x: jax.Array) -> jax.Array:
    """Computes what `Affine.after` does, by the image."""
    return conv(x) * affine.scale[...].astype(affine.dtype) + affine.bias[...].astype(affine.dtype)


def ways() -> tuple[dict[str, turns.Way], dict[str, float]]:
    """Returns the encoder's forward pass and gradient as they are now, compiled, and the bytes of each."""
    config = model.laptop()
    config.update(encoder="efficientnet_lite0", image_size=SIZE)
    alone, rng = EncoderAlone(config, 16), np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.1, x.dtype), alone.params)
    images = jax.device_put(rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8))

    def loss(params: Any, images: jax.Array) -> jax.Array:
        return jnp.sum(alone(params, images) ** 2)

    functions = {"forward": alone, "gradient": jax.grad(loss)}
    programs = {name: jax.jit(of).lower(params, images).compile() for name, of in functions.items()}
    calls = {name: functools.partial(_run, of, params, images) for name, of in programs.items()}
    return calls, {name: traffic.of(of, params, images).bytes for name, of in functions.items()}


def _run(program: Any, *inputs: Any) -> object:
    return jax.block_until_ready(program(*inputs))


def main() -> None:
    commit = runs.code_commit("benchmarks")
    now, now_bytes = ways()
    unfused = dataclasses.replace(efficientnet.LITE, activation=jax.nn.relu6)
    with (
        mock.patch.object(efficientnet.Affine, "after", apart),
        mock.patch.object(efficientnet.EfficientNetLite, "STYLE", unfused),
    ):
        before, before_bytes = ways()
    calls = {f"{name}, now": way for name, way in now.items()}
    seconds = turns.medians(calls | {f"{name}, before": way for name, way in before.items()}, REPEATS)
    found = {
        name: {
            "now_s": seconds[f"{name}, now"],
            "before_s": seconds[f"{name}, before"],
            "share_of_time": seconds[f"{name}, now"] / seconds[f"{name}, before"],
            "share_of_bytes": now_bytes[name] / before_bytes[name],
        }
        for name in now
    }
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
