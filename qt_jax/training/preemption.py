"""Handles SIGTERM (a scheduler's preemption notice) and Ctrl-C, from a run's start-up to its last step."""

from __future__ import annotations

import os
import signal
import sys

import jax
from jax._src import distributed
from jax.experimental import multihost_utils

from qt_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED
from qt_jax.signals import Listener
from qt_jax.training.peers import Peers

STOPPED = {EXIT_PREEMPTED: "told to stop", EXIT_INTERRUPTED: "interrupted"}
"""How the line of each exit status begins."""


class Preemption:
    """Listens for signals. A context manager.

    Before `begin` a signal ends the process at once, since there is nothing to save. After it the loop asks
    at each step (`due`). With several processes, JAX agrees on the step at which all of them save. A second
    Ctrl-C does not wait for the save.
    """

    def __init__(self, peers: Peers):
        self._peers, self._begun, self._status = peers, False, 0
        self._listener = Listener(
            {
                signal.SIGTERM: lambda: self._heard(EXIT_PREEMPTED),
                signal.SIGINT: lambda: self._heard(EXIT_INTERRUPTED),
            }
        )

    def __enter__(self) -> Preemption:
        self._listener.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._listener.__exit__()

    def begin(self) -> None:
        """Marks that there is something to save from now on."""
        self._begun = True
        if jax.process_count() > 1:
            # Not before: JAX then has SIGTERM, and would do nothing with it during start-up.
            jax.config.update("jax_enable_preemption_service", True)
            if distributed.global_state.preemption_sync_manager is None:
                distributed.global_state.initialize_preemption_sync_manager()

    def _heard(self, status: int) -> None:
        """Reacts to a signal, in the listener's thread."""
        if not self._begun:
            self._peers.stop(
                f"{STOPPED[status]} before the first step, so that there is nothing to save; the same "
                "command starts again, from the last checkpoint if there is one.",
                status,
            )
        if status == EXIT_INTERRUPTED and self._status:
            print("qt_jax train: interrupted again, before the run was saved", file=sys.stderr, flush=True)
            os._exit(status)
        self._status = self._status or status
        if jax.process_count() > 1 and status == EXIT_INTERRUPTED:
            os.kill(os.getpid(), signal.SIGTERM)  # on which all processes then agree

    def requested(self) -> bool:
        """Returns whether a run of a single process is to save and leave; validation asks between batches."""
        return bool(self._status) and jax.process_count() == 1

    def due(self, step: int) -> int:
        """Returns the exit status with which to leave after this step, once it is saved; 0: go on.

        Every process must ask after every step.
        """
        if jax.process_count() == 1:
            return self._status
        return (self._status or EXIT_PREEMPTED) if multihost_utils.reached_preemption_sync_point(step) else 0
