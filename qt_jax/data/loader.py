"""Draws -> batches: records read, episodes kept while their segments are drawn, images decoded, in threads
and worker processes.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from qt_jax.data import episodes, mixture
from qt_jax.data import index as indices
from qt_jax.data.buffers import Buffers
from qt_jax.data.episodes import Episode
from qt_jax.data.kept import Kept
from qt_jax.data.mixture import Mixture
from qt_jax.data.order import Draw, Group, Order, Reader
from qt_jax.data.segments import BadFrame, Cutting, Layout, Prepared, Rows, prepare
from qt_jax.data.skips import Met, Skips, pack
from qt_jax.errors import UserError
from qt_jax.segment import Segment

MOST_BAD = 20
"""So many segments are tried for a row before the dataset is given up."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides what a segment is: the data and the learner's settings.

    Goes to worker processes.
    """

    mixture: Mixture
    cutting: Cutting
    discount: float
    dt_ref: float
    value_range: tuple[float, float]
    step_penalty: float
    time_limits: str
    relabel_rate: float
    paraphrase_cosine: float
    seed: int
    cache: str
    max_skipped: int
    state_statistics: dict[str, Any]
    """{source: Statistics of its state}: the data's own, or those of the run that this one starts from."""

    def layout(self, source: int) -> Layout:
        own = self.mixture.sources[source]
        return Layout(own.action, self.mixture.interface, self.state_statistics[own.name], self.cutting,
                      self.discount, self.dt_ref, self.value_range, self.time_limits)  # fmt: skip


class SegmentReader:
    """Segments by draw. Episodes stay in memory, encoded, up to `memory` bytes.

    groups: what the draws are from; a segment with a frame that does not decode is replaced by another of its
        group. Without groups, as for validation, its row trains and counts nothing.

    bytes_read, bytes_used: of records from storage, and of the encoded frames that segments were made of.
    """

    def __init__(self, recipe: Recipe, memory: int = 0, groups: Sequence[Group] = ()):
        self._recipe, self._groups = recipe, groups
        self._layouts = [recipe.layout(number) for number in range(len(recipe.mixture.sources))]
        self._kept, self._buffers, self._lock = Kept(memory), Buffers(), threading.Lock()
        self._segments = [np.cumsum(group.cuts) for group in groups]
        self.bytes_read = self.bytes_used = 0

    def batch(self, draws: Sequence[Draw]) -> tuple[Segment, np.ndarray]:
        """One row a draw, and the frames that did not decode, as `skips.pack` has them."""
        met: list[Met] = []
        rows = Rows(self._layouts[0], len(draws), self._buffers)
        used = sum(self._fill(rows, row, draw, met) for row, draw in enumerate(draws))
        with self._lock:
            self.bytes_used += used
        return rows.segment(), pack(met)

    def _fill(self, rows: Rows, row: int, draw: Draw, met: list[Met]) -> int:
        """Puts the draw, or what takes its place, into a row; returns the bytes of its frames."""
        for turn in range(MOST_BAD):
            try:
                return rows.fill(row, self.episode(draw), draw.cut, self._recipe.cutting)
            except BadFrame as bad:
                camera = self._recipe.mixture.interface.observation.cameras.index(bad.camera)
                met.append(Met(draw.source, draw.episode, camera, bad.step))
                if not self._groups:
                    rows.leave_out(row)
                    return 0
                draw = self._instead(draw, turn)
        source, last = self._recipe.mixture.sources[draw.source], met[-1]
        place = indices.where(source.directory, source.index, last.episode)
        raise UserError(
            f"{source.name}: {place}, step {last.step}: an image does not decode, as in {MOST_BAD - 1} "
            "segments that were drawn for its row before; repair the dataset (`validate` lists all of them)."
        )

    def _instead(self, draw: Draw, turn: int) -> Draw:
        """Another segment of the group, each as likely: a function of the draw and of how many were tried."""
        group, ends = self._groups[draw.group], self._segments[draw.group]
        rng = np.random.default_rng((self._recipe.seed, draw.group, draw.number, draw.cut, turn))
        chosen = int(rng.integers(ends[-1]))
        entry = int(np.searchsorted(ends, chosen, side="right"))
        cut = chosen - int(ends[entry] - group.cuts[entry])
        return draw._replace(episode=int(group.episodes[entry]), cut=cut)

    def episode(self, draw: Draw) -> Prepared:
        """The episode of a draw, relabelled if it is to be."""
        own = self._kept.get((draw.source, draw.episode), lambda: self._read(draw))
        told = self._told(draw)
        if told is None:
            return own

        def relabelled():
            return episodes.relabelled(own.episode, told, self._recipe.step_penalty)

        failed = self._kept.get(
            (draw.source, draw.episode, told), lambda: self._prepared(draw.source, relabelled())
        )
        # A success whose o_T was not kept is shorter as a failure; the cut that it then lacks stays as it is.
        return failed if draw.cut < len(failed.table) else own

    def _read(self, draw: Draw) -> Prepared:
        source, recipe = self._recipe.mixture.sources[draw.source], self._recipe
        episode = indices.read(
            source.directory, source.index, source.spec, draw.episode, recipe.step_penalty, recipe.cache
        )
        with self._lock:
            self.bytes_read += int(source.index.columns["size"][draw.episode])
        return self._prepared(draw.source, episode)

    def _prepared(self, source: int, episode: Episode) -> Prepared:
        index = self._recipe.mixture.sources[source].index
        return prepare(
            episode, index.embeddings[index.instruction_numbers[episode.instruction]], self._layouts[source]
        )

    def _told(self, draw: Draw) -> str | None:
        """With a chance of `relabel_rate`, another task's instruction for this reading of the episode."""
        if not self._recipe.relabel_rate:
            return None
        rng = np.random.default_rng((self._recipe.seed, draw.group, draw.number))
        if rng.random() >= self._recipe.relabel_rate:
            return None
        source = self._recipe.mixture.sources[draw.source]
        others = other_tasks(source, draw.episode, self._recipe.paraphrase_cosine)
        return source.index.instructions[rng.choice(others)] if len(others) else None


def other_tasks(source: mixture.Source, episode: int, cosine: float) -> np.ndarray:
    """Instructions (numbers in the index) at which the episode failed: of other tasks than its own, not
    paraphrases of its instruction, and not achieved by it.
    """
    index, excluded = source.index, np.zeros(len(source.index.instructions), bool)
    own, task = index.columns["instruction"][episode], index.tasks[index.columns["task"][episode]]
    for achieved in (
        task,
        *(source.spec.achieves.get(task, ()) if index.columns["success"][episode] else ()),
    ):
        excluded[index.instructions_of_tasks.get(achieved, [])] = True
    return np.flatnonzero(~excluded & (index.unit_embeddings @ index.unit_embeddings[own] < cosine))


class _Plan(grain.MapDataset):
    """Element i is part i % P of batch i // P: an equal share of the rows, always the same rows for the same
    part. Endless.
    """

    def __init__(
        self, recipe: Recipe, order: Order, rows: np.ndarray, parts: int, first_batch: int, memory: int
    ):
        super().__init__()
        self._recipe, self._order, self._rows = recipe, order, np.split(rows, parts)
        self._first, self._memory = first_batch, memory
        self._lock = threading.Lock()
        self._readers: dict[int, Reader] = {}
        self.segments: SegmentReader | None = None

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        batch, part = divmod(index, len(self._rows))
        with self._lock:
            self.segments = self.segments or SegmentReader(self._recipe, self._memory, self._order.groups)
            reader = self._readers.setdefault(part, Reader(self._order, self._rows[part]))
            draws = reader.batch(self._first + batch)
        return self.segments.batch(draws)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}


def _end_with(parent: int, worker: int, workers: int) -> None:
    """In a worker process: a trainer that is killed leaves none behind, and one that is told to stop has them
    until it has saved.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal or a scheduler sends to all processes
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="end_with", daemon=True).start()


class TrainingIterator:
    """Endless batches whose position is the number of batches taken, whatever reads them.

    Args:
        rows: which rows of the global batch to read here (default: all); the others belong to other hosts.
        threads: that each make whole batches, in this process, or, their share of the rows, in each of
            `workers` processes (0: none).
        shuffle_episodes: over all hosts, so many episodes have their segments shuffled together.
        memory: bytes of encoded episodes that all reading processes here keep together; each of `workers`
            keeps its share. Beside them each thread holds the episode that it reads, and the batches that it
            makes.
        skips: told of frames that do not decode; by default one of this iterator's own.

    Raises:
        UserError: if the workers do not divide the rows: each then reads episodes of its own.

    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        batch_size: int,
        threads: int,
        workers: int = 0,
        shuffle_episodes: int = 512,
        memory: int = 0,
        rows: np.ndarray | None = None,
        skips: Skips | None = None,
    ):
        self._recipe, self._threads, self._workers, self._memory = recipe, threads, workers, memory
        self.skips = skips or Skips(recipe.mixture, recipe.max_skipped)
        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows)
        if workers and len(self._rows) % workers:
            raise UserError(
                f"config.data.workers is {workers}, which does not divide the {len(self._rows)} rows of the batch that this host reads; "
                f"give a divisor or 0."
            )
        groups = mixture.groups(recipe.mixture, recipe.cutting)
        block = -(-shuffle_episodes // (batch_size * len(groups)))
        self.order = Order(groups, batch_size, block, recipe.seed)
        self._shuffled = block * len(groups) * len(self._rows)
        self.position = 0
        self._iterator: Any = None

    @property
    def segments(self) -> int:
        """In one epoch."""
        return sum(int(group.cuts.sum()) for group in self.order.groups)

    def memory_notice(self) -> str:
        """A line, with its end, where the episodes shuffled together outgrow the memory; else empty."""
        sources = self._recipe.mixture.sources
        sizes = [sources[group.source].index.columns["size"][group.episodes] for group in self.order.groups]
        sizes = np.concatenate(sizes)
        wanted = min(self._shuffled, len(sizes)) * float(sizes.mean())
        if wanted <= self._memory:
            return ""
        return (
            f"The {min(self._shuffled, len(sizes))} episodes that are shuffled together here take about "
            f"{wanted / 2**20:,.0f} MiB, config.data.memory_mib keeps {self._memory / 2**20:,.0f}: each is "
            "read several times; raise it or lower config.data.shuffle_episodes.\n"
        )

    def get_state(self) -> dict[str, int]:
        return {"batches": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.close()
        self.position = state["batches"]

    def __iter__(self) -> Iterator[Segment]:
        return self

    def __next__(self) -> Segment:
        if self._iterator is None:
            self._iterator = self._start()
        batch, met = next(self._iterator)
        self.skips.meet(met)
        self.position += 1
        return batch

    def _start(self) -> Any:
        parts = max(1, self._workers)
        self._plan = _Plan(self._recipe, self.order, self._rows, parts, self.position, self._memory // parts)
        dataset = self._plan.to_iter_dataset(
            grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
        )
        if self._workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain's processes copy absl's flags

            def together(parts):
                return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

            with_me = functools.partial(_end_with, os.getpid())
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=1), with_me
            )
            dataset = grain.experimental.ThreadPrefetchIterDataset(
                dataset.batch(self._workers, batch_fn=together), prefetch_buffer_size=1
            )
        return iter(dataset)

    def read_amplification(self) -> float:
        """Bytes read from storage for each byte of encoded frames used, in this process so far.

        0 where others read.
        """
        reader = getattr(self._plan, "segments", None) if self._iterator is not None else None
        return reader.bytes_read / reader.bytes_used if reader is not None and reader.bytes_used else 0.0

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def validation_draws(recipe: Recipe, limit: int) -> list[Draw]:
    """Every validation segment, or `limit` of them at even distances, in order."""
    draws = [
        Draw(number, int(episode), cut, 0, 0)
        for number, source in enumerate(recipe.mixture.sources)
        for episode in source.validation
        for cut in range(len(recipe.cutting.starts(int(source.index.columns["length"][episode]))))
    ]
    return draws[:: max(1, -(-len(draws) // limit))]


def validation_batches(
    recipe: Recipe,
    draws: list[Draw],
    *,
    batch_size: int,
    rows: np.ndarray | None = None,
    skips: Skips | None = None,
) -> Iterator[Segment]:
    """Each of `draws` once, in order, not relabelled.

    The last batch is filled up with copies that count nowhere.

    Args:
        rows, skips: as in `TrainingIterator`; a segment with a frame that does not decode counts nowhere
            either.

    """
    reader = SegmentReader(dataclasses.replace(recipe, relabel_rate=0.0))
    skips = skips or Skips(recipe.mixture, recipe.max_skipped)
    rows = np.arange(batch_size) if rows is None else rows
    for start in range(0, len(draws), batch_size):
        batch, met = reader.batch([draws[min(start + row, len(draws) - 1)] for row in rows])
        skips.meet(met)
        copies = start + rows >= len(draws)
        batch.trainable[copies] = batch.is_first[copies] = False
        yield batch
