"""What a Beam worker does for `collect`: a batch of episodes, in a process beside its own."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from qt_jax.envs import collectors


def collect(
    config: Any, batch: tuple[int, list[collectors.EpisodePlan]]
) -> Iterator[tuple[int, collectors.Episode]]:
    """(index, episode) of the batch's plans, numbered from its first index on."""
    start, plans = batch
    try:
        episodes = _simulator().submit(collectors.collect_episodes, config, plans).result()
    except BrokenProcessPool:
        _simulator.cache_clear()  # the runner may try this batch again
        raise
    yield from enumerate(episodes, start)


@functools.cache
def _simulator() -> ProcessPoolExecutor:
    """A Beam worker has TensorFlow loaded, which crashes in one process with Mesa's software renderer.

    One for all its batches.
    """
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
