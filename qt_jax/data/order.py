"""The order in which segments are trained, which depends on the seed, the batch's number and the row alone.

So a position is one number, the same for any number of hosts, worker processes and threads, and every host
reads its own episodes alone.

- The groups' weights divide a circle into arcs. In batch t, row r of B draws from the group on whose arc
  frac(t * golden ratio + r / B) lies. So each batch holds every group's share to within one row, and so does
  each row in the long run.
- A group's episodes are permuted anew in each epoch, which makes an endless sequence of draws. Row r takes
  draws r, r + B, r + 2B and so on, whole episodes. So each episode of an epoch is drawn once, by one row.
- The draws of one row from one group are its lane. A lane shuffles the segments of `block` draws together,
  then those of the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The fraction of the golden ratio, times 2^64: products wrap around like a circle."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Episodes of a dataset, each of which is drawn equally often.

    source: number of the dataset; episodes: their numbers in its index; cuts: number of segments of each;
    weight: the group's share of the draws, in proportion to those of the other groups.
    """

    source: int
    episodes: np.ndarray
    cuts: np.ndarray
    weight: float


class Draw(NamedTuple):
    """One segment: cut `cut` of `episode` of dataset `source`, in draw `number` of group `group`."""

    source: int
    episode: int
    cut: int
    group: int
    number: int


class Order:
    """The draws of all batches.

    Args:
        groups: what is drawn from.
        rows: number of rows of the global batch.
        block: number of draws of a lane whose segments are shuffled together.
        seed: of permutations and shuffles.

    """

    def __init__(self, groups: tuple[Group, ...], rows: int, block: int, seed: int):
        self.groups, self.rows, self.block, self.seed = groups, rows, block, seed
        edges = np.cumsum([group.weight for group in groups])
        self._edges = (edges[:-1] / edges[-1] * 2.0**64).astype(np.uint64)

    def group_of(self, batches: np.ndarray, row: int) -> np.ndarray:
        """Returns the number of the group that the row draws from in each of these batches."""
        place = batches.astype(np.uint64) * GOLDEN + np.uint64(int(row) * 2**64 // self.rows)
        return np.searchsorted(self._edges, place, side="right")

    def drawn(self, group: int, numbers: np.ndarray) -> np.ndarray:
        """Returns which of the group's episodes these draws are, as positions in `Group.episodes`."""
        epochs, places = np.divmod(numbers, len(self.groups[group].episodes))
        key = np.random.SeedSequence((self.seed, group)).generate_state(1, np.uint64)[0]
        return permuted(places, _hashed(epochs.astype(np.uint64) + key), len(self.groups[group].episodes))


def _hashed(x: np.ndarray) -> np.ndarray:
    """Mixes the bits of each number (the finaliser of SplitMix64: Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(places: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """Returns where the permutation of range(count) that each key names sends each place.

    No permutation is held in memory: a Feistel network permutes the next even number of bits, and is applied
    until the result lies in the range (Black and Rogaway 2002).
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
    """The segments that one row draws from one group, from any position on."""

    AHEAD = 16
    """Blocks whose episodes are drawn in one go: numpy takes as long for one."""

    def __init__(self, order: Order, group: int, row: int, skip: int):
        self._order, self._group, self._row = order, group, row
        self._next_block = 0
        self._ahead: list[Iterator[tuple[int, int, int]]] = []
        self._waiting: list[Draw] = []
        self._skip(skip)

    def _numbers(self, first: int, blocks: int) -> np.ndarray:
        """Returns the numbers of the draws of `blocks` blocks, [blocks, block]."""
        places = np.arange(first * self._order.block, (first + blocks) * self._order.block)
        return (places * self._order.rows + self._row).reshape(blocks, -1)

    def _skip(self, count: int) -> None:
        """Goes past `count` segments, a whole block at a time."""
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
        if not self._ahead:
            self._draw_ahead()
        segments = [
            Draw(group.source, episode, cut, self._group, number)
            for number, episode, cuts in self._ahead.pop()
            for cut in range(cuts)
        ]
        rng = np.random.default_rng((order.seed, self._group, self._row, self._next_block))
        self._waiting = [segments[i] for i in rng.permutation(len(segments))]
        self._next_block += 1

    def _draw_ahead(self) -> None:
        """Draws (number, episode, its cuts) of the next blocks, the last of them first."""
        group, numbers = self._order.groups[self._group], self._numbers(self._next_block, self.AHEAD)
        drawn = self._order.drawn(self._group, numbers.ravel()).reshape(numbers.shape)
        columns = (numbers, group.episodes[drawn], group.cuts[drawn])
        self._ahead = [zip(*block) for block in zip(*(column[::-1].tolist() for column in columns))]

    def next(self) -> Draw:
        """Returns the next segment."""
        while not self._waiting:
            self._fill()
        return self._waiting.pop(0)


class Reader:
    """The draws of some rows, batch after batch; a step back, or far ahead, costs a fresh start."""

    CHUNK = 64

    def __init__(self, order: Order, rows: np.ndarray):
        self._order, self._rows = order, [int(row) for row in rows]
        self._chunks: dict[int, list[list[Draw]]] = {}
        self._next_chunk = -1
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._drawn_before: dict[int, list[int]] = {}

    def batch(self, number: int) -> list[Draw]:
        """Returns the draws of all rows in one batch. Not thread-safe."""
        chunk, place = divmod(number, self.CHUNK)
        if chunk not in self._chunks:
            if chunk != self._next_chunk:
                self._start(chunk)
            self._advance()
        return self._chunks[chunk][place]

    def _start(self, chunk: int) -> None:
        past, groups = np.arange(chunk * self.CHUNK), len(self._order.groups)
        for row in self._rows:
            counts = np.bincount(self._order.group_of(past, row), minlength=groups)
            self._drawn_before[row] = counts.tolist()
        self._next_chunk, self._chunks, self._lanes = chunk, {}, {}

    def _lane(self, row: int, group: int) -> Lane:
        if (row, group) not in self._lanes:
            self._lanes[row, group] = Lane(self._order, group, row, self._drawn_before[row][group])
        return self._lanes[row, group]

    def _advance(self) -> None:
        batches = np.arange(self._next_chunk * self.CHUNK, (self._next_chunk + 1) * self.CHUNK)
        groups = np.stack([self._order.group_of(batches, row) for row in self._rows], axis=1).tolist()
        draws = [[self._lane(row, group).next() for row, group in zip(self._rows, line)] for line in groups]
        self._chunks[self._next_chunk] = draws
        self._chunks.pop(self._next_chunk - 3, None)
        self._next_chunk += 1
