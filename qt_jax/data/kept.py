"""Episodes in memory while their segments are drawn, bounded in bytes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable

from qt_jax.data.segments import Prepared


class Kept:
    """Episodes by key, each made once while it is kept; the least recently wanted go first.

    capacity: bytes of all that are kept; the newest stays whatever it weighs, so that its next cut needs no
        reading.
    """

    def __init__(self, capacity: int):
        self._capacity, self._lock = capacity, threading.Lock()
        self._entries: collections.OrderedDict[Hashable, _Once] = collections.OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], Prepared]) -> Prepared:
        """What `make` gave for this key. One thread makes it, the others that want it wait."""
        with self._lock:
            entry = self._entries.setdefault(key, _Once())
            self._entries.move_to_end(key)
        value, is_new = entry.get(make)
        if is_new:
            with self._lock:
                entry.size = value.nbytes
                self.bytes += entry.size
                self._drop(keep=entry)
        return value

    def _drop(self, keep: _Once) -> None:
        dropped = []
        for key, entry in self._entries.items():
            if self.bytes <= self._capacity:
                break
            if entry is not keep and entry.size:  # not while it is being made
                self.bytes -= entry.size
                dropped.append(key)
        for key in dropped:
            del self._entries[key]


class _Once:
    """A value that the first who asks computes. size: its bytes once it is there."""

    def __init__(self):
        self._lock, self._value, self.size = threading.Lock(), None, 0

    def get(self, compute: Callable[[], Prepared]) -> tuple[Prepared, bool]:
        """The value, and whether this call computed it."""
        with self._lock:
            is_new = self._value is None
            if is_new:
                self._value = compute()
            return self._value, is_new
