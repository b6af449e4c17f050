"""Times of several ways to do a thing, which take turns in one process: so they share the machine's noise."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.learner_step import random_segment
from qt_jax import agents
from qt_jax.training import setup
from qt_jax.training.state import init_state, train_step

Way = Callable[[], object]


def medians(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Returns the median seconds of each way, {name: seconds}, after one call that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    for _ in range(repeats):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def made(config: Any, interface: Any, settings: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Returns the config with these settings, its ensemble, and a batch in memory."""
    config.update_from_flattened_dict(settings)
    config = setup.with_value_range(config, config.dt_ref)
    batch = jax.device_put(random_segment(config, interface))
    return config, agents.make_ensemble(config, interface), batch


def step(config: Any, interface: Any, settings: dict[str, Any]) -> Way:
    """Returns a function that takes a train step with these settings and waits for it."""
    config, ensemble, batch = made(config, interface, settings)
    compiled = jax.jit(functools.partial(train_step, config, ensemble), donate_argnums=0)
    state = init_state(config, ensemble)

    def run() -> object:
        nonlocal state
        state, metrics = compiled(state, batch)
        return jax.block_until_ready(metrics)

    return run
