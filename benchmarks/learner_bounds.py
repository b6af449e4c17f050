"""`make learner-bounds`: what share of the matmul peak a train step can reach on these cores.

The sizes of `make bench-learner`. FLOPs and bytes of a step are counted from its trace (planning/traffic.py);
the peaks of matrix products and of memory are measured here, in turns. Two bounds: memory and products at the
same time, and one after the other. A CPU's cache keeps some of these bytes from memory, and XLA moves others
that are not counted. Writes experiments/results/learner_bounds.json.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import learner_step, runs, turns
from qt_jax import agents
from qt_jax.planning import traffic
from qt_jax.training import setup
from qt_jax.training.state import init_state, train_step

RESULTS = Path("experiments/results/learner_bounds.json")
REPEATS, SIDE, COPIED = 15, 1024, 2**26
"""Of each peak; of a matrix; bytes that are read, and as many that are written."""


def peaks() -> tuple[float, float]:
    """Measures FLOP/s of float32 matrix products, and bytes/s to and from memory."""
    matrix, array = jnp.ones((SIDE, SIDE)), jnp.ones(COPIED // 4)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    halved = jax.jit(lambda x: 0.5 * x).lower(array).compile()
    ways = {
        "product": lambda: jax.block_until_ready(product(matrix, matrix)),
        "memory": lambda: jax.block_until_ready(halved(array)),
    }
    seconds = turns.medians(ways, REPEATS)
    return 2 * SIDE**3 / seconds["product"], 2 * COPIED / seconds["memory"]


def bounds(size: str, flops_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """Counts a step of this size, and bounds its share of the matmul peak."""
    shipped = size in learner_step.SHIPPED
    config, interface = learner_step.shipped(size) if shipped else learner_step.as_peer(size)
    config = setup.with_value_range(config, config.dt_ref)
    ensemble = agents.make_ensemble(config, interface)
    state = jax.eval_shape(functools.partial(init_state, config, ensemble))
    batch: Any = learner_step.random_segment(config, interface)
    work = traffic.of(functools.partial(train_step, config, ensemble), state, batch)
    compute, memory = work.flops / flops_per_s, work.bytes / bytes_per_s
    return {
        "step_gflop": work.flops / 1e9,
        "step_gb": work.bytes / 1e9,
        "compute_s": compute,
        "memory_s": memory,
        "share_at_once": compute / max(compute, memory),
        "share_in_turn": compute / (compute + memory),
    }


def main() -> None:
    commit = runs.code_commit("benchmarks")
    flops_per_s, bytes_per_s = peaks()
    sizes = {
        size: bounds(size, flops_per_s, bytes_per_s) for size in (*learner_step.SHIPPED, *learner_step.PEER)
    }
    runs.write(
        RESULTS,
        commit=commit,
        matmul_gflop_per_s=flops_per_s / 1e9,
        memory_gb_per_s=bytes_per_s / 1e9,
        **sizes,
    )
    print(json.dumps(json.loads(RESULTS.read_text()), indent=1))


if __name__ == "__main__":
    main()
