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
VARIANTS = {backup: {"agent.backup": backup, "agent.n_step": 2} for backup in BACKUPS}
RT1_BATCH = 1, 9
"""Segments and their length."""


def sized(size: str) -> tuple[Any, Any]:
    """Returns the config and interface of a size."""
    if size != "rt1":
        return shipped(size)
    config, interface = as_peer(size)
    config.data.batch_size, config.data.segment_length = RT1_BATCH
    return config, interface


def stepper(size: str, settings: dict[str, Any]) -> Callable[[], object]:
    """Returns a function that takes one train step on a batch in memory and waits for it."""
    config, interface = sized(size)
    config.update_from_flattened_dict(settings)
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


def measure(size: str, variants: dict[str, dict[str, Any]], repeats: int) -> dict[str, float]:
    """Returns median seconds of a step with each variant's settings, {variant: seconds}."""
    steps = {name: stepper(size, settings) for name, settings in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for run in steps.values():
        run()

    for _ in range(repeats):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    commit, found = runs.code_commit("benchmarks"), {}
    for size, repeats in SIZES.items():
        seconds = measure(size, VARIANTS, repeats)
        others = {b: seconds["skip_decoded"] / seconds[b] for b in BACKUPS if b != "skip_decoded"}
        found[size] = {"step_s": seconds, "skip_decoded over": others}
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
