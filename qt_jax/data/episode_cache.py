"""Episodes kept in memory while their segments are drawn, bounded in bytes."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Hashable

from qt_jax.data.segments import Prepared


class EpisodeCache:
    """A cache of episodes by key, safe for threads; the least recently used are dropped first.

    capacity: bytes of all episodes together. The newest one stays even if it is larger, so that its next cut
    needs no reading.
    """

    def __init__(self, capacity: int):
        self._capacity, self._lock = capacity, threading.Lock()
        self._entries: collections.OrderedDict[Hashable, _Entry] = collections.OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], Prepared]) -> Prepared:
        """Returns the episode of this key; one thread calls `make` if it is missing, and the others wait."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            else:
                self._entries.move_to_end(key)
        value, is_new = entry.get(make)
        if is_new:
            with self._lock:
                entry.size = value.nbytes
                self.bytes += entry.size
                self._drop(keep=entry)
        return value

    def _drop(self, keep: _Entry) -> None:
        dropped = []
        for key, entry in self._entries.items():
            if self.bytes <= self._capacity:
                break
            if entry is not keep and entry.size:  # a size of 0: it is being made
                self.bytes -= entry.size
                dropped.append(key)
        for key in dropped:
            del self._entries[key]


class _Entry:
    """An episode that the first caller computes. size: its bytes, 0 until it is there."""

    def __init__(self):
        self._lock, self.size = threading.Lock(), 0
        self._value: Prepared | None = None

    def get(self, compute: Callable[[], Prepared]) -> tuple[Prepared, bool]:
        """Returns the episode, and whether this call computed it."""
        with self._lock:
            if self._value is not None:
                return self._value, False
            self._value = value = compute()
            return value, True
