"""In which order segments are trained: a function of the seed, the batch's number and the row, and of nothing
else.

So a position is one number, the same on any number of hosts, worker processes and threads, and every host
reads its own episodes alone.

- A row of the batch is a lane. In batch t, row r draws from the group in which frac(t * golden ratio + r / B) falls on a circle cut by the
  groups' weights: each batch holds every group's share to within one row, and each row in the long run.
- A group's episodes are permuted anew each epoch; its n-th draw is entry n of that endless sequence. Lane r takes draws r, r + B,
  r + 2B, ..., whole episodes, so all of an epoch's episodes are drawn once, by one lane each.
- A lane shuffles the segments of `block` draws together, and then goes on to the next.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio's fraction of 2^64; products wrap around, which is the circle."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Episodes that are drawn alike. source: which dataset; episodes: their numbers in its index; cuts:
    segments of each; weight: share.
    """

    source: int
    episodes: np.ndarray
    cuts: np.ndarray
    weight: float


class Draw(NamedTuple):
    """One segment: cut `cut` of `episode` of dataset `source`; (group, number) names this reading of the
    episode.
    """

    source: int
    episode: int
    cut: int
    group: int
    number: int


class Order:
    """The draws of all batches.

    Args:
        rows: of the global batch. block: draws of a lane whose segments are shuffled together.

    """

    def __init__(self, groups: tuple[Group, ...], rows: int, block: int, seed: int):
        self.groups, self.rows, self.block, self.seed = groups, rows, block, seed
        edges = np.cumsum([group.weight for group in groups])
        self._edges = (edges[:-1] / edges[-1] * 2.0**64).astype(np.uint64)

    def group_of(self, batches: np.ndarray, row: int) -> np.ndarray:
        """Which group the row draws from in each of these batches."""
        place = batches.astype(np.uint64) * GOLDEN + np.uint64(int(row) * 2**64 // self.rows)
        return np.searchsorted(self._edges, place, side="right")

    def drawn(self, group: int, numbers: np.ndarray) -> np.ndarray:
        """Which of the group's episodes these draws are."""
        epochs, places = np.divmod(numbers, len(self.groups[group].episodes))
        key = np.random.SeedSequence((self.seed, group)).generate_state(1, np.uint64)[0]
        return permuted(places, _hashed(epochs.astype(np.uint64) + key), len(self.groups[group].episodes))


def _hashed(x: np.ndarray) -> np.ndarray:
    """Uniform bits from distinct numbers (SplitMix64's finaliser: Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(places: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """Where the permutation of range(count) named by each key sends each place, without making the
    permutation.

    A Feistel network on the next even number of bits, walked until it falls into the range (Black and Rogaway
    2002).
    """
    half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))
    low = np.uint64((1 << int(half)) - 1)

    def once(x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for turn in range(4):
            left, right = right, left ^ (_hashed(right + keys + np.uint64(turn * int(GOLDEN) % 2**64)) & low)
        return left << half | right

    result = once(places.astype(np.uint64), keys)
    while (outside := np.flatnonzero(result >= count)).size:
        result[outside] = once(result[outside], keys[outside])
    return result.astype(np.int64)


class Lane:
    """One row's way through one group, from any position."""

    def __init__(self, order: Order, group: int, row: int, skip: int):
        self._order, self._group, self._row = order, group, row
        self._next_block, self._waiting = 0, []
        self._skip(skip)

    def _numbers(self, first: int, blocks: int) -> np.ndarray:
        """Draws of `blocks` blocks, [blocks, block]."""
        places = np.arange(first * self._order.block, (first + blocks) * self._order.block)
        return (places * self._order.rows + self._row).reshape(blocks, -1)

    def _skip(self, count: int) -> None:
        """Past `count` segments, whole blocks at a time."""
        cuts = self._order.groups[self._group].cuts
        while count:
            numbers = self._numbers(self._next_block, 1024)
            sizes = cuts[self._order.drawn(self._group, numbers.ravel())].reshape(numbers.shape).sum(1)
            whole = int(np.searchsorted(np.cumsum(sizes), count, side="right"))
            count -= int(sizes[:whole].sum())
            self._next_block += whole
            if whole < len(sizes):
                self._fill()
                self._waiting = self._waiting[count:]
                return

    def _fill(self) -> None:
        order, group = self._order, self._order.groups[self._group]
        (numbers,) = self._numbers(self._next_block, 1)
        drawn = order.drawn(self._group, numbers)
        segments = [
            Draw(group.source, int(group.episodes[entry]), cut, self._group, int(number))
            for number, entry in zip(numbers, drawn)
            for cut in range(group.cuts[entry])
        ]
        shuffled = np.random.default_rng((order.seed, self._group, self._row, self._next_block)).permutation(
            len(segments)
        )
        self._waiting = [segments[i] for i in shuffled]
        self._next_block += 1

    def next(self) -> Draw:
        while not self._waiting:
            self._fill()
        return self._waiting.pop(0)


class Reader:
    """The draws of some rows, batch after batch; going back, or far ahead, costs a fresh start."""

    CHUNK = 64

    def __init__(self, order: Order, rows: np.ndarray):
        self._order, self._rows = order, rows
        self._chunks: dict[int, list[list[Draw]]] = {}
        self._next_chunk = -1

    def batch(self, number: int) -> list[Draw]:
        """The draws of all rows in one batch. Not thread-safe."""
        chunk, place = divmod(number, self.CHUNK)
        if chunk not in self._chunks:
            if chunk != self._next_chunk:
                self._start(chunk)
            self._advance()
        return self._chunks[chunk][place]

    def _start(self, chunk: int) -> None:
        past = np.arange(chunk * self.CHUNK)
        self._lanes = {}
        for row in self._rows:
            counts = np.bincount(self._order.group_of(past, row), minlength=len(self._order.groups))
            for group, count in enumerate(counts):
                self._lanes[row, group] = (group, int(row), int(count))
        self._next_chunk, self._chunks = chunk, {}

    def _lane(self, row: int, group: int) -> Lane:
        lane = self._lanes[row, group]
        if not isinstance(lane, Lane):
            lane = self._lanes[row, group] = Lane(self._order, *lane)
        return lane

    def _advance(self) -> None:
        batches = np.arange(self._next_chunk * self.CHUNK, (self._next_chunk + 1) * self.CHUNK)
        groups = np.stack([self._order.group_of(batches, row) for row in self._rows], axis=1)
        draws = [[self._lane(row, group).next() for row, group in zip(self._rows, line)] for line in groups]
        self._chunks[self._next_chunk] = draws
        self._chunks.pop(self._next_chunk - 3, None)
        self._next_chunk += 1
