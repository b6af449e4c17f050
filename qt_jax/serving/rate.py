"""Ticks at a fixed rate, and how late they came."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

KEPT = 100_000
"""Ticks whose lateness is kept, the last ones."""
_SAY_S = 1.0
"""Seconds between two lines of the log at least."""


class Rate:
    """Waits for ticks 1 / hz seconds apart, which do not drift.

    A tick that is missed is left out and counted. It is a warning of the logger `qt_jax.control`, once a
    second at most.

    Args:
        hz: ticks a second.
        clock: seconds of a clock that is never set.
        sleep: waits for so many seconds.

    """

    def __init__(
        self,
        hz: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._period, self._clock, self._sleep = 1 / hz, clock, sleep
        self._start = self._last = clock()
        self._tick = self._ticks = self._missed = 0
        self._late: collections.deque[float] = collections.deque(maxlen=KEPT)
        self._said: float | None = None

    def wait(self) -> None:
        """Sleeps until the next tick. Comes back at once if it has passed already."""
        self._tick += 1
        due = self._start + self._tick * self._period
        if (left := due - self._clock()) > 0:
            self._sleep(left)
        self._last = self._clock()
        late = self._last - due
        self._ticks += 1
        self._late.append(late)
        if missed := int(late / self._period):
            self._missed += missed
            self._tick += missed
            self._say(late)

    def _say(self, late: float) -> None:
        if self._said is None or self._last - self._said >= _SAY_S:
            self._said = self._last
            logging.getLogger("qt_jax.control").warning(
                "the loop misses its rate of %g Hz: a tick was %.1f ms late; %d of %d are missed",
                1 / self._period,
                1000 * late,
                self._missed,
                self._ticks + self._missed,
            )

    def report(self) -> dict[str, Any]:
        """Returns "hz", "achieved_hz", "ticks", "missed", and "late_ms": "p50", "p95", "p99" and "max"."""
        found = {"hz": 1 / self._period, "ticks": self._ticks, "missed": self._missed}
        if not self._late:
            return found | {"achieved_hz": 0.0, "late_ms": {}}
        late = 1000 * np.asarray(self._late)
        shares = {f"p{share}": float(np.percentile(late, share)) for share in (50, 95, 99)}
        achieved = self._ticks / max(self._last - self._start, 1e-9)
        return found | {"achieved_hz": achieved, "late_ms": shares | {"max": float(late.max())}}
