"""`make bench-backups`: what a train step costs with each backup, at the quickstart's and RT-1's size.

"skip_decoded" decodes an action at every step of the segment; the others take one teacher-forced pass. The
backups' steps take turns in one process, which shares the machine's noise. Medians, and ratios to "chain".
Writes experiments/results/bench_backups.json.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks.learner_step import as_peer, random_segment, shipped
from qt_jax import agents
from qt_jax.losses import BACKUPS
from qt_jax.training import setup
from qt_jax.training.state import init_state, train_step

RESULTS = Path("experiments/results/bench_backups.json")
SIZES = {"quickstart": 15, "rt1": 3}
"""{size: timed steps of each backup}."""


def stepper(size: str, backup: str) -> Callable[[], object]:
    """Returns a function that takes one train step on a batch in memory and waits for it."""
    config, interface = as_peer(size) if size == "rt1" else shipped(size)
    config.agent.backup, config.agent.n_step = backup, 2
    config = setup.with_value_range(config, config.dt_ref)
    ensemble = agents.make_ensemble(config, interface)
    batch = jax.device_put(random_segment(config, interface))
    step = jax.jit(functools.partial(train_step, config, ensemble), donate_argnums=0)
    state = init_state(config, ensemble)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)

    return run


def measure(size: str, repeats: int) -> dict[str, float]:
    """Returns median seconds of a step, {backup: seconds}."""
    steps = {backup: stepper(size, backup) for backup in BACKUPS}
    times: dict[str, list[float]] = {backup: [] for backup in BACKUPS}
    for run in steps.values():
        run()

    for _ in range(repeats):
        for backup, run in steps.items():
            start = time.perf_counter()
            run()
            times[backup].append(time.perf_counter() - start)
    return {backup: statistics.median(values) for backup, values in times.items()}


def main() -> None:
    """Measures every size, prints a line each and writes the results."""
    found = {}
    for size, repeats in SIZES.items():
        seconds = measure(size, repeats)
        found[size] = {b: {"step_s": s, "of_chain": s / seconds["chain"]} for b, s in seconds.items()}
        print(
            size, ", ".join(f"{b} {v['step_s']:.3g} s ({v['of_chain']:.2f}x)" for b, v in found[size].items())
        )
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
