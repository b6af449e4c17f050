"""`make bench-gpu`: one accelerator: train steps, attention, decisions, a fleet of small runs.

Each part is a process of its own with its own time limit, and the results are written after each: they stay
when the machine is taken away. No part begins after 12 minutes. MFU is of the published bfloat16 peak.
`SMALL=1` tries all of it at toy size on a CPU. Writes experiments/results/bench_gpu.json, or the file that is
given.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import bench_decisions, learner_step, runs, stacked_runs, turns
from experiments import metaworld_benchmark
from qt_jax import agents
from qt_jax.models.network import parameter_count
from qt_jax.training import chips, setup, traced
from qt_jax.training.program import step_flops
from qt_jax.training.state import init_state, train_step

RESULTS = Path("experiments/results/bench_gpu.json")
SMALL = bool(os.environ.get("SMALL"))
LIMIT_S, BUDGET_S = 150, 720
"""Seconds of a part, and after which no part begins."""
REPEATS = 3 if SMALL else 20
TOY = {
    "model.layers": 1, "model.width": 32, "model.heads": 2, "data.batch_size": 2, "model.encoder": "patch",
    "model.patch_stages": ((8, 16, 0),), "model.image_tokens": 1, "data.segment_length": 9,
}  # fmt: skip


def train_steps(size: str, settings: dict[str, Any]) -> dict[str, float]:
    """Measures the train step of a size with these settings on a batch on the device."""
    config, interface = learner_step.shipped(size)
    config.update_from_flattened_dict(settings | (TOY if SMALL else {}))
    config = setup.with_value_range(config, config.dt_ref)
    ensemble = agents.make_ensemble(config, interface)
    batch = jax.device_put(learner_step.random_segment(config, interface))
    begun = time.perf_counter()
    state = jax.jit(functools.partial(init_state, config, ensemble))()
    flops, parameters = step_flops(config, ensemble, state, batch), parameter_count(state.params)
    step = jax.jit(functools.partial(train_step, config, ensemble), donate_argnums=0)
    step = step.lower(state, batch).compile()
    compiled = time.perf_counter()

    def run() -> object:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    seconds = learner_step.median_s(run)
    device = jax.devices()[0]
    peak, memory = chips.published(device.device_kind), device.memory_stats() or {}
    return {
        "parameters": parameters,
        "start_s": compiled - begun,
        "step_ms": 1000 * seconds,
        "step_tflop": flops / 1e12,
        "mfu": flops / seconds / (peak.flops if peak else chips.measured_peak()),
        "peak_gib": memory.get("peak_bytes_in_use", 0) / 2**30,
        "images_per_s": batch.valid.size * len(batch.images) / seconds,
    }


def attention(implementation: str) -> dict[str, float]:
    """Measures attention forward and backward, with a bias as mask, at the frames of RT-1's batch."""
    rows, length, heads = (2, 16, 2) if SMALL else (64 * 12, 6 * 9, 8)
    query, key, value = (
        jax.random.normal(key, (rows, length, heads, 64), jnp.bfloat16)
        for key in jax.random.split(jax.random.key(0), 3)
    )
    bias = jnp.where(jnp.tril(jnp.ones((1, 1, length, length), bool)), 0.0, -1e9).astype(jnp.bfloat16)

    @jax.jit
    def gradient(*inputs: jax.Array) -> Any:
        def loss(q, k, v):
            attended = jax.nn.dot_product_attention(q, k, v, bias=bias, implementation=implementation)
            return jnp.sum(attended.astype(jnp.float32) ** 2)

        return jax.grad(loss, argnums=(0, 1, 2))(*inputs)

    return {"ms": 1000 * learner_step.median_s(lambda: gradient(query, key, value))}


def decisions(size: str) -> dict[str, float]:
    """Measures one robot's decision by `Sessions.act`, decided in several ways, in ms."""
    ways = {
        name: bench_decisions.WAYS[name] for name in ("plain", "chunks of 4 actions", "rank:16", "rank:64")
    }
    made = {name: bench_decisions.decide(size, *how) for name, how in ways.items()}
    return {name: 1000 * s for name, s in turns.medians(made, REPEATS * 5).items()}


def fleet(count: int) -> dict[str, float]:
    """Measures small state-only runs as one program: the benchmark's Q-Transformer, each with a seed."""
    config = metaworld_benchmark.get_config("q_transformer,b,0")
    interface = learner_step.interface_of(config)
    rows, config.data.batch_size = config.data.batch_size, 64 if SMALL else 20_000
    segment = learner_step.random_segment(config, interface)  # all segments on the device
    config.data.batch_size = rows
    config = setup.with_value_range(config, config.dt_ref)
    arrays = {
        name: value
        for name, value in vars(segment).items()
        if name not in ("images", "camera_mask", "instruction")
    }
    arrays |= {"instruction": np.zeros(len(segment.valid), np.int32), "embeddings": segment.instruction[:1]}
    own = [
        {name: value for name, value in traced.values(config).items() if name in stacked_runs.TRACED}
    ] * count
    trained = stacked_runs.Fleet(config, agents.make_ensemble(config, interface), arrays, own)
    steps = 2 if SMALL else 50
    taken = np.random.default_rng(0).integers(0, len(segment.valid), (steps, count, rows)).astype(np.int32)
    seconds = learner_step.median_s(lambda: trained.train(taken)) / steps
    return {"steps_per_s_of_all": count / seconds, "step_ms": 1000 * seconds}


RT1 = {"model.scan_layers": False}
PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "step rt1": lambda: train_steps("sizes", RT1),
    "step rt1, nothing rematerialised": lambda: train_steps(
        "sizes", RT1 | {"model.remat": "none", "model.encoder_remat": "none"}
    ),
    "step rt1, batch of 128": lambda: train_steps("sizes", RT1 | {"data.batch_size": 128}),
    "step quickstart, bfloat16": lambda: train_steps("quickstart", {"model.dtype": "bfloat16"}),
    "step quickstart, batch of 256": lambda: train_steps(
        "quickstart", {"model.dtype": "bfloat16", "data.batch_size": 256}
    ),
    "attention xla": lambda: attention("xla"),
    "attention cudnn": lambda: attention("cudnn"),
    "decisions quickstart": lambda: decisions("quickstart"),
    "fleet of 1": lambda: fleet(1),
    "fleet of 20": lambda: fleet(20),
    "fleet of 100": lambda: fleet(100),
}
"""In the order in which they are measured."""


def child(part: str) -> dict[str, Any]:
    """Measures a part in a process of its own; what it cannot is said in its place."""
    command = [sys.executable, "-m", "benchmarks.bench_gpu", "--part", part]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_TRACEBACK_FILTERING": "off"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {LIMIT_S} s"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(PARTS[sys.argv[2]]() | {"device": jax.devices()[0].device_kind}))
        return
    output, found = Path(*sys.argv[1:2] or [RESULTS]), {}
    commit = os.environ.get("QT_JAX_COMMIT") or runs.code_commit("benchmarks")
    begun = time.monotonic()
    for part in PARTS:
        late = time.monotonic() - begun > BUDGET_S
        found[part] = {"error": f"{BUDGET_S} s were over"} if late else child(part)
        print(part, json.dumps(found[part]), flush=True)
        runs.write(output, commit=commit, **found)


if __name__ == "__main__":
    main()
