"""`make bench-learner`: transitions/s of the learner and its share of the machine's matmul peak, for the shipped laptop-size configs.

Work is counted as in the design: F = FLOPs of one forward pass of the network over the batch (from the compiled program); a step
is 3F (online, forward and backward) + 1F (target). The peak is a jitted float32 2048^3 matmul, measured in the same run. Transitions
are trainable steps only. Medians over repeats. Writes experiments/results/bench_learner.json.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks import runs
from qt_jax.envs import metaworld
from qt_jax.models.q_transformer import Network, parameter_count
from qt_jax.specs import Segment
from qt_jax.text import DIM
from qt_jax.training.state import init_state, train_step

EXPERIMENTS = ("quickstart", "metaworld_mt10")
RESULTS = Path("experiments/results/bench_learner.json")
REPEATS = 15


def load_config(name: str):
    spec = importlib.util.spec_from_file_location(name, f"experiments/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return ml_collections.FrozenConfigDict(module.get_config())


def median_s(run) -> float:
    """Median wall time of `run`, which returns arrays to wait for; one call first to compile."""
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_peak() -> float:
    """FLOP/s of a float32 matmul of 2048^3."""
    n = 2048
    x = jnp.ones((n, n))
    product = jax.jit(lambda x: x @ x)
    return 2 * n**3 / median_s(lambda: product(x))


def random_segment(config, action, observation) -> Segment:
    """A full batch; every step that a middle cut trains is trainable."""
    rng = np.random.default_rng(0)
    shape = (config.data.batch_size, config.data.segment_length)
    flags = np.zeros(shape, bool)
    trainable = flags.copy()
    trainable[:, config.model.window - 1 : shape[1] - config.agent.n_step] = True
    zeros = np.zeros(shape, np.float32)
    return Segment(
        images={name: rng.integers(0, 255, (*shape, *observation.image_size, 3), np.uint8) for name in observation.cameras},
        state=rng.normal(size=(*shape, observation.state_dim)).astype(np.float32),
        instruction=rng.normal(size=(shape[0], DIM)).astype(np.float32),
        tokens=rng.integers(0, action.max_bins, (*shape, action.dims)).astype(np.int32),
        action_mask=np.ones((*shape, action.dims), bool),
        reward=zeros, mc_return=zeros, dt=zeros + config.dt_ref, is_first=flags, is_last=flags, is_terminal=flags,
        valid=~flags, trainable=trainable, success=np.ones(shape[0], bool),
    )  # fmt: skip


def measure(name: str, peak: float) -> dict[str, float]:
    config = load_config(name)
    action, observation = metaworld.action_spec(config.env), metaworld.observation_spec(config.env)
    network = Network.create(config.model, action, observation, DIM)
    batch = jax.device_put(random_segment(config, action, observation))
    state = init_state(config, network)
    forward_flops = jax.jit(network.score).lower(state.params, batch).compile().cost_analysis()["flops"]
    step = jax.jit(functools.partial(train_step, config, network), donate_argnums=0)
    holder = [state]

    def run():
        holder[0], metrics = step(holder[0], batch)
        return metrics

    seconds = median_s(run)
    return {
        "parameters": parameter_count(holder[0].params),
        "steps_per_s": 1 / seconds,
        "transitions_per_s": int(batch.trainable.sum()) / seconds,
        "forward_gflop": forward_flops / 1e9,
        "share_of_matmul_peak": 4 * forward_flops / seconds / peak,
    }


def main() -> None:
    peak = matmul_peak()
    result = {"matmul_peak_gflop_s": peak / 1e9} | {name: measure(name, peak) for name in EXPERIMENTS}
    runs.write(RESULTS, **result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
