"""`make bench-backups`: what each backup costs, at the quickstart's and RT-1's size.

"skip_decoded" decodes an action at every step of the segment; the others take one teacher-forced pass. At the
quickstart's size this is the time of a train step. At RT-1's, whose step takes minutes to compile on a CPU,
it is that of the target network's pass alone, on one short segment: about a quarter of a step, and the only
part that differs, so a step's ratio is nearer to 1; "skip_first_dim" takes the pass of "chain" and is left
out. The backups take turns in one process, which shares the machine's noise. Medians and their ratios.
Writes experiments/results/bench_backups.json.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import runs
from benchmarks.learner_step import as_peer, random_segment, shipped
from qt_jax import agents
from qt_jax.agents import q_transformer
from qt_jax.losses import BACKUPS
from qt_jax.training import setup
from qt_jax.training.state import init_state, train_step

RESULTS = Path("experiments/results/bench_backups.json")
RT1_SEGMENTS = {"batch_size": 1, "segment_length": 9}
STEP_REPEATS, PASS_REPEATS = 30, 10


def quickstart_step(backup: str) -> Callable[[], object]:
    """Returns a function that takes a train step of the quickstart's size and waits for it."""
    config, network, batch = _made(*shipped("quickstart"), backup)
    step = jax.jit(functools.partial(train_step, config, network), donate_argnums=0)
    state = init_state(config, network)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)

    return run


def rt1_target_pass(backup: str) -> Callable[[], object]:
    """Returns a function that computes the targets of a batch of RT-1's size and waits for them."""
    config, interface = as_peer("rt1")
    config.data.update(RT1_SEGMENTS)
    config, network, batch = _made(config, interface, backup)
    params = jax.jit(network.init)(jax.random.key(0))
    targets = jax.jit(functools.partial(q_transformer.maximising_targets, config, network))
    return lambda: jax.block_until_ready(targets(params, batch))


def _made(config: Any, interface: Any, backup: str) -> tuple[Any, Any, Any]:
    """Returns the config with this backup of two steps, its network, and a batch in memory."""
    config.agent.backup, config.agent.n_step = backup, 2
    config = setup.with_value_range(config, config.dt_ref)
    batch = jax.device_put(random_segment(config, interface))
    return config, agents.make_network(config, interface), batch


def measure(make: Callable[[str], Callable[[], object]], repeats: int, *backups: str) -> dict[str, Any]:
    """Returns the seconds with each backup, and those of "skip_decoded" over the others'."""
    ways = {backup: make(backup) for backup in backups}
    times: dict[str, list[float]] = {backup: [] for backup in backups}
    for run in ways.values():
        run()

    for _ in range(repeats):
        for backup, run in ways.items():
            start = time.perf_counter()
            run()
            times[backup].append(time.perf_counter() - start)
    seconds = {backup: statistics.median(values) for backup, values in times.items()}
    others = {b: seconds["skip_decoded"] / seconds[b] for b in backups if b != "skip_decoded"}
    return {"seconds": seconds, "skip_decoded over": others}


def main() -> None:
    commit = runs.code_commit("benchmarks")
    found = {
        "a step of the quickstart": measure(quickstart_step, STEP_REPEATS, *BACKUPS),
        "a target pass of RT-1": measure(rt1_target_pass, PASS_REPEATS, "chain", "skip_decoded")
        | RT1_SEGMENTS,
    }
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
