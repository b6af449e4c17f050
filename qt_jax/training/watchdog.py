"""Ends a run that hangs (a lost host, a stuck device, a dead file system), and says where it stood."""

from __future__ import annotations

import threading
import time

from qt_jax.errors import EXIT_HUNG
from qt_jax.training.peers import Peers


class Watchdog:
    """Ends the process if `alive` is not called for `seconds`.

    It ends with EXIT_HUNG, and prints every thread's stack on stderr.
    """

    def __init__(self, seconds: float, peers: Peers):
        self._seconds, self._peers, self._last, self._step = seconds, peers, time.monotonic(), 0
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def alive(self, step: int) -> None:
        """Marks that `step` is done."""
        self._last, self._step = time.monotonic(), step

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                self._peers.stop(
                    f"step {self._step} did not end within config.train.step_timeout_s={self._seconds:g} s; "
                    "every thread's stack follows. Look for a lost host or storage; raise the bound if the "
                    "step is really this slow.",
                    EXIT_HUNG,
                )
