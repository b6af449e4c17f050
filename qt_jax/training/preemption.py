"""SIGTERM (a scheduler's preemption notice) as a question that the loop asks after each step."""

from __future__ import annotations

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Preemption:
    """From entry to exit SIGTERM only sets a flag. With several processes, JAX agrees on the step at which all of them save."""

    def __init__(self):
        self._told = False

    def __enter__(self) -> Preemption:
        if jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(self, *_) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def due(self, step: int) -> bool:
        """Whether to save and leave after this step. Every process must ask after every step."""
        return self._told if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)
