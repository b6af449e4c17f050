"""The loader, which makes batches of draws in threads and worker processes.

It reads records, keeps episodes in memory while their segments are drawn, and decodes images.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from qt_jax import children
from qt_jax.data import episodes, mixture
from qt_jax.data import index as indices
from qt_jax.data.buffers import Buffers
from qt_jax.data.episode_cache import EpisodeCache
from qt_jax.data.episodes import Episode
from qt_jax.data.features import Features
from qt_jax.data.idle import Idle
from qt_jax.data.mixture import Mixture
from qt_jax.data.order import Draw, Group, Order, Reader
from qt_jax.data.segments import BadFrame, Cutting, Layout, Prepared, Rows, prepare
from qt_jax.data.skips import DamagedFrame, Skips, pack
from qt_jax.data.video import Traffic
from qt_jax.errors import UserError
from qt_jax.segment import Segment
from qt_jax.statistics import Statistics

MOST_BAD = 20
"""Segments that are tried for a row before the dataset is given up."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides what a segment holds: the data and the learner's settings. Worker processes get it."""

    mixture: Mixture
    cutting: Cutting
    discount: float
    dt_ref: float
    value_range: tuple[float, float]
    step_penalty: float
    time_limits: str
    idle: Idle | None
    relabel_rate: float
    paraphrase_cosine: float
    seed: int
    cache: str
    max_skipped: int
    state_statistics: dict[str, Statistics]
    """{source: statistics of its state}: the data's own, or those of the run that this one starts from."""
    features: Features | None = None
    """What is read in place of images."""

    def layout(self, source: int) -> Layout:
        """Returns the layout of the dataset of this number."""
        own = self.mixture.sources[source]
        return Layout(
            own=own.action,
            interface=self.mixture.interface,
            state=self.state_statistics[own.name],
            cutting=self.cutting,
            discount=self.discount,
            dt_ref=self.dt_ref,
            value_range=self.value_range,
            time_limits=self.time_limits,
            idle=self.idle,
        )


class SegmentReader:
    """Reads the segments of draws, and keeps encoded episodes in memory, up to `memory` bytes.

    groups: what the draws are from; a segment with a frame that does not decode is replaced by another of its
        group. Without groups, as for validation, its row trains and counts nothing.

    traffic: bytes of the records and of the videos' frames that were read, and of the frames that were used.
    """

    def __init__(self, recipe: Recipe, memory: int = 0, groups: Sequence[Group] = ()):
        self._recipe, self._groups = recipe, groups
        self._layouts = [recipe.layout(number) for number in range(len(recipe.mixture.sources))]
        self._cache, self._buffers, self._lock = EpisodeCache(memory), Buffers(), threading.Lock()
        self._segments = [np.cumsum(group.cuts) for group in groups]
        self.traffic = Traffic()

    def batch(self, draws: Sequence[Draw]) -> tuple[Segment, np.ndarray]:
        """Returns a batch of one row a draw, and the frames that did not decode, packed by `skips.pack`."""
        damaged: list[DamagedFrame] = []
        features = self._recipe.features
        rows = Rows(self._layouts[0], len(draws), self._buffers, features.shape if features else None)
        filled = [self._fill(rows, row, draw, damaged) for row, draw in enumerate(draws)]
        with self._lock:
            self.traffic = sum(filled, self.traffic)
        return rows.segment(), pack(damaged)

    def _fill(self, rows: Rows, row: int, draw: Draw, damaged: list[DamagedFrame]) -> Traffic:
        """Puts the draw, or its replacement, into a row; returns the bytes of its frames."""
        for turn in range(MOST_BAD):
            try:
                return rows.fill(row, self.episode(draw), draw.cut, self._recipe.cutting)
            except BadFrame as bad:
                camera = self._recipe.mixture.interface.observation.cameras.index(bad.camera)
                damaged.append(DamagedFrame(draw.source, draw.episode, camera, bad.step))
                if not self._groups:
                    rows.leave_out(row)
                    return Traffic()
                draw = self._replacement(draw, turn)

        source, last = self._recipe.mixture.sources[draw.source], damaged[-1]
        name = self._recipe.mixture.interface.observation.cameras[last.camera]
        place = indices.where(source.directory, source.index, last.episode, name)
        raise UserError(
            f"{source.name}: {place}, step {last.step}: an image does not decode, as in {MOST_BAD - 1} "
            "segments that were drawn for its row before; repair the dataset (`validate` lists all of them)."
        )

    def _replacement(self, draw: Draw, turn: int) -> Draw:
        """Returns any segment of the group, each as likely, by the draw and the number of tries alone."""
        group, ends = self._groups[draw.group], self._segments[draw.group]
        rng = np.random.default_rng((self._recipe.seed, draw.group, draw.number, draw.cut, turn))
        chosen = int(rng.integers(ends[-1]))
        entry = int(np.searchsorted(ends, chosen, side="right"))
        cut = chosen - int(ends[entry] - group.cuts[entry])
        return draw._replace(episode=int(group.episodes[entry]), cut=cut)

    def episode(self, draw: Draw) -> Prepared:
        """Returns the episode of a draw, relabelled if hindsight chose another task for it."""
        own = self._cache.get((draw.source, draw.episode), lambda: self._read(draw))
        instruction = self._other_instruction(draw)
        if instruction is None:
            return own

        def relabelled() -> Prepared:
            failed = episodes.relabelled(own.episode, instruction, self._recipe.step_penalty)
            return self._prepared(draw.source, failed)

        failed = self._cache.get((draw.source, draw.episode, instruction), relabelled)
        # A success without its last observation is shorter as a failure. A cut that the failure lacks is read
        # as it was.
        return failed if draw.cut < len(failed.table) else own

    def _read(self, draw: Draw) -> Prepared:
        source, recipe = self._recipe.mixture.sources[draw.source], self._recipe
        episode = indices.read(
            source.directory, source.index, source.spec, draw.episode, recipe.step_penalty, recipe.cache
        )
        with self._lock:
            self.traffic.read += int(source.index.columns["size"][draw.episode])
        if recipe.features is not None:
            episode = recipe.features.put(draw.source, source.index, draw.episode, episode)
        return self._prepared(draw.source, episode)

    def _prepared(self, source: int, episode: Episode) -> Prepared:
        index = self._recipe.mixture.sources[source].index
        embedding = index.embeddings[index.instruction_numbers[episode.instruction]]
        return prepare(episode, embedding, self._layouts[source])

    def _other_instruction(self, draw: Draw) -> str | None:
        """Returns another task's instruction for a draw, with a chance of `relabel_rate`, else None."""
        if not self._recipe.relabel_rate:
            return None
        rng = np.random.default_rng((self._recipe.seed, draw.group, draw.number))
        if rng.random() >= self._recipe.relabel_rate:
            return None
        source = self._recipe.mixture.sources[draw.source]
        others = other_tasks(source, draw.episode, self._recipe.paraphrase_cosine)
        return source.index.instructions[rng.choice(others)] if len(others) else None


def other_tasks(source: mixture.Source, episode: int, cosine: float) -> np.ndarray:
    """Returns the instructions at which an episode failed, as numbers in the index.

    They are of tasks that the episode neither has nor achieved, and no paraphrases of its own instruction:
    the cosine of the embeddings is less than `cosine`.
    """
    index, excluded = source.index, np.zeros(len(source.index.instructions), bool)
    own, task = index.columns["instruction"][episode], index.tasks[index.columns["task"][episode]]
    also = source.spec.achieves.get(task, ()) if index.columns["success"][episode] else ()
    for achieved in (task, *also):
        excluded[index.instructions_of_tasks.get(achieved, [])] = True
    return np.flatnonzero(~excluded & (index.unit_embeddings @ index.unit_embeddings[own] < cosine))


class _Plan(grain.MapDataset):
    """An endless dataset whose element i is part i % P of batch i // P; a part is always the same rows."""

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

    def __getitem__(self, index: int | slice) -> Any:
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


def _end_with_trainer(worker: int, workers: int) -> None:
    """Makes a worker process end with its trainer, not before: a trainer saves after a signal to stop."""
    # A terminal or a scheduler sends these to all processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    children.end_with_parent()


class TrainingIterator:
    """Endless batches; the position is the number of batches taken, for any number of threads and workers.

    Args:
        recipe: what the segments hold.
        batch_size: rows of the global batch.
        threads: number of threads, in this process or in each worker process, that make whole batches of the
            process's rows.
        workers: number of worker processes, which share the rows; 0: this process reads.
        shuffle_episodes: number of episodes, over all hosts, whose segments are shuffled together.
        memory: bytes of encoded episodes that all reading processes of this host keep together, in equal
            parts. Beside them each thread holds the episode that it reads and the batches that it makes.
        rows: which rows of the global batch to read here (default: all); the others belong to other hosts.
        skips: counts frames that do not decode (default: the iterator's own).

    Raises:
        UserError: if the number of workers does not divide the number of rows.

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
                f"config.data.workers is {workers}, which does not divide the {len(self._rows)} rows of the "
                "batch that this host reads; give a divisor or 0."
            )

        groups = mixture.groups(recipe.mixture, recipe.cutting)
        block = -(-shuffle_episodes // (batch_size * len(groups)))
        self.order = Order(groups, batch_size, block, recipe.seed)
        self._shuffled = block * len(groups) * len(self._rows)
        self.position = 0
        self._iterator: Any = None

    @property
    def segments(self) -> int:
        """Number of segments of one epoch."""
        return sum(int(group.cuts.sum()) for group in self.order.groups)

    def memory_notice(self) -> str:
        """Returns a line if the episodes that are shuffled together need more than the memory, else ""."""
        sources, groups = self._recipe.mixture.sources, self.order.groups
        sizes = np.concatenate([sources[g.source].index.columns["size"][g.episodes] for g in groups])
        episodes = min(self._shuffled, len(sizes))
        wanted = episodes * float(sizes.mean())
        if wanted <= self._memory:
            return ""
        return (
            f"The {episodes} episodes that are shuffled together here take about "
            f"{wanted / 2**20:,.0f} MiB, config.data.memory_mib keeps {self._memory / 2**20:,.0f}: each is "
            "read several times; raise it or lower config.data.shuffle_episodes.\n"
        )

    def get_state(self) -> dict[str, int]:
        """Returns the position, to store in a checkpoint."""
        return {"batches": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to the position of a stored state."""
        self.close()
        self.position = state["batches"]

    def __iter__(self) -> Iterator[Segment]:
        return self

    def __next__(self) -> Segment:
        if self._iterator is None:
            self._iterator = self._start()
        batch, damaged = next(self._iterator)
        self.skips.add(damaged)
        self.position += 1
        return batch

    def _start(self) -> Any:
        parts = max(1, self._workers)
        self._plan = _Plan(self._recipe, self.order, self._rows, parts, self.position, self._memory // parts)
        threads = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=2 * self._threads)
        dataset = self._plan.to_iter_dataset(threads)
        if not self._workers:
            return iter(dataset)

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's processes copy absl's flags
        processes = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(processes, _end_with_trainer)
        dataset = dataset.batch(self._workers, batch_fn=_concatenated)
        return iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1))

    def read_amplification(self) -> float:
        """Returns the bytes read from storage for each byte of encoded frames used, in this process so far.

        It is 0 if worker processes read.
        """
        reader = getattr(self._plan, "segments", None) if self._iterator is not None else None
        traffic = reader.traffic if reader is not None else Traffic()
        return traffic.read / traffic.used if traffic.used else 0.0

    def close(self) -> None:
        """Ends threads and worker processes; the next batch starts new ones at the same position."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def _concatenated(parts: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
