"""Decided actions as commands of a robot's controller: when each is sent, and what is sent in between.

Times are ticks of the controller, of which a control step of the policy has `count`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from qt_jax.safety import ABSOLUTE, DELTA


@dataclasses.dataclass(frozen=True)
class _Chunk:
    first: int
    """Tick at which its first action begins."""
    actions: np.ndarray


class Chunks:
    """The actions to come.

    Without `ensemble` one chunk follows the other: a new one begins when the last action of the one before
    has ended. With it each chunk begins at the tick of its observation, and of the chunks that overlap the
    actions of a control step are averaged with the weights exp(-ensemble * i), i = 0 for the oldest chunk.
    That is the temporal ensembling of ACT (Zhao et al. 2023, arXiv:2304.13705, algorithm 2).

    Args:
        count: ticks of a control step.
        ensemble: the lower, the more a new chunk counts; ACT took 0.01. None: no ensembling.
        averaged: bool [D], the dims that are averaged; of others the newest chunk's action is taken.

    """

    def __init__(self, count: int, ensemble: float | None, averaged: Sequence[bool]):
        self._count, self._ensemble, self._averaged = count, ensemble, np.asarray(averaged)
        self._chunks: list[_Chunk] = []

    @property
    def ensembles(self) -> bool:
        """Whether actions of overlapping chunks are averaged."""
        return self._ensemble is not None

    def add(self, seen: int, now: int, actions: np.ndarray) -> None:
        """Adds the actions [h, D] that were decided on the observation of tick `seen`, at tick `now`."""
        first = seen if self.ensembles else max(now, *(self._end(c) for c in self._chunks), 0)
        self._chunks.append(_Chunk(first, actions))

    def at(self, tick: int) -> tuple[np.ndarray, int] | None:
        """Returns the action [D] of a tick and how many ticks it has left; None: there is none.

        Forgets what lies before.
        """
        self._chunks = [chunk for chunk in self._chunks if self._end(chunk) > tick]
        there = [chunk for chunk in self._chunks if chunk.first <= tick]
        if not there:
            return None
        actions = np.stack([c.actions[(tick - c.first) // self._count] for c in there])  # oldest first
        left = self._count - (tick - there[0].first) % self._count
        if len(there) == 1:
            return actions[0], left
        weights = np.exp(-(self._ensemble or 0.0) * np.arange(len(there)))
        mean = np.average(actions, axis=0, weights=weights).astype(actions.dtype)
        return np.where(self._averaged, mean, actions[-1]), left

    def clear(self) -> None:
        """Forgets all actions."""
        self._chunks = []

    def _end(self, chunk: _Chunk) -> int:
        return chunk.first + self._count * len(chunk.actions)


def commands(
    before: np.ndarray, action: np.ndarray, kinds: Sequence[str], count: int, left: int
) -> np.ndarray:
    """Returns what is sent at each of the ticks that an action has left, [left, D].

    An absolute dim goes in equal steps from where it was before to the action, which it reaches at the last
    tick. A delta is spread over all `count` ticks. Anything else is sent as it is.

    Args:
        before: [D], where the dims were; NaN: unknown, and the action is sent at once.
        action: [D].
        kinds: of each dim one of `safety.KINDS`.
        count: ticks of a control step.
        left: how many of them the action has.

    """
    kind = np.asarray(kinds)
    start = np.where(np.isnan(before), action, before)
    share = (np.arange(1, left + 1, dtype=np.float32) / left)[:, None]
    on_the_way = np.where(share < 1, start + (action - start) * share, action)
    found = np.where(kind == ABSOLUTE, on_the_way, action)
    return np.where(kind == DELTA, action / np.float32(count), found).astype(np.float32)
