"""`make bench-backups`: what a train step costs with each backup, at the quickstart's and RT-1's size.

"skip_decoded" decodes an action at every step of the segment; the others take one teacher-forced pass. The
backups' steps take turns in one process, which shares the machine's noise. Medians of their times, and the
time of "skip_decoded" over each of the others'. RT-1's batch is one short segment, so that a CPU does it in
minutes. Writes experiments/results/bench_backups.json.
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
from qt_jax.losses import BACKUPS
from qt_jax.training import setup
from qt_jax.training.state import init_state, train_step

RESULTS = Path("experiments/results/bench_backups.json")
SIZES = {"quickstart": 30, "rt1": 5}
"""{size: timed steps of each backup}."""
RT1_BATCH = 1, 9
"""Segments and their length."""


def sized(size: str, backup: str) -> tuple[Any, Any]:
    """Returns the config and interface of a size, with backups of two steps."""
    config, interface = as_peer(size) if size == "rt1" else shipped(size)
    if size == "rt1":
        config.data.batch_size, config.data.segment_length = RT1_BATCH
    config.agent.backup, config.agent.n_step = backup, 2
    return setup.with_value_range(config, config.dt_ref), interface


def stepper(size: str, backup: str) -> Callable[[], object]:
    """Returns a function that takes one train step on a batch in memory and waits for it."""
    config, interface = sized(size, backup)
    ensemble = agents.make_ensemble(config, interface)
    batch = jax.device_put(random_segment(config, interface))
    step = jax.jit(functools.partial(train_step, config, ensemble), donate_argnums=0)
    state = init_state(config, ensemble)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)

    return run


def measure(size: str, repeats: int) -> dict[str, Any]:
    """Returns the seconds of a step with each backup, and those of "skip_decoded" over the others'."""
    steps = {backup: stepper(size, backup) for backup in BACKUPS}
    times: dict[str, list[float]] = {backup: [] for backup in BACKUPS}
    for run in steps.values():
        run()

    for _ in range(repeats):
        for backup, run in steps.items():
            start = time.perf_counter()
            run()
            times[backup].append(time.perf_counter() - start)
    seconds = {backup: statistics.median(values) for backup, values in times.items()}
    others = {b: seconds["skip_decoded"] / seconds[b] for b in BACKUPS if b != "skip_decoded"}
    return {"step_s": seconds, "skip_decoded over": others}


def main() -> None:
    commit = runs.code_commit("benchmarks")
    found = {size: measure(size, repeats) for size, repeats in SIZES.items()}
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
