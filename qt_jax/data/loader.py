"""Segments -> shuffled batches whose position can be saved, and back to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np

from qt_jax.data.segments import SegmentSource
from qt_jax.errors import UserError
from qt_jax.specs import Segment


class _Rows(grain.MapDataset):
    """Of every `batch_size` elements only those at `rows`."""

    def __init__(self, parent: grain.MapDataset, rows: np.ndarray, batch_size: int):
        super().__init__(parent)
        self._rows, self._batch_size = rows, batch_size

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * len(self._rows)

    def __getitem__(self, index):
        batch, row = divmod(index, len(self._rows))
        return self._parent[batch * self._batch_size + int(self._rows[row])]


def training_iterator(
    source: SegmentSource,
    *,
    batch_size: int,
    seed: int,
    read_threads: int,
    demonstration_share: float = 0.0,
    rows: np.ndarray | None = None,
) -> grain.DatasetIterator:
    """Endless batches (dicts of arrays, see `to_segment`), reshuffled each epoch.

    `get_state` / `set_state` of the iterator continue bit for bit. The state counts global batches, so it is the same on every host and
    for any number of hosts.

    Args:
        demonstration_share: share of the segments drawn from demonstrations, in (0, 1); 0: every segment equally often.
        rows: which rows of the global batch to read here (default: all); the others belong to other hosts and are not decoded.

    Raises:
        UserError: if one batch asks for more segments than there are, or the share for a kind of episode that is not there.
    """
    rows = np.arange(batch_size) if rows is None else rows
    if batch_size > len(source):
        raise UserError(f"config.data.batch_size is {batch_size} but the dataset has {len(source)} segments; lower it or collect more.")
    is_demonstration = source.is_demonstration
    parts, weights = [np.arange(len(source))], [1.0]
    if demonstration_share:
        parts = [np.flatnonzero(is_demonstration), np.flatnonzero(~is_demonstration)]
        weights = [demonstration_share, 1 - demonstration_share]
    if not all(map(len, parts)):
        raise UserError(
            f"config.data.demonstration_share is {demonstration_share} but {is_demonstration.mean():.0%} of the segments are of "
            "demonstrations; set it to 0."
        )
    shuffled = [grain.MapDataset.source(part).seed(seed + i).shuffle().repeat() for i, part in enumerate(parts)]
    here = _Rows(grain.MapDataset.mix(shuffled, weights), rows, batch_size)
    dataset = here.map(source.__getitem__).batch(len(rows), drop_remainder=True)
    options = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=4 * read_threads)
    return iter(dataset.to_iter_dataset(options))


def validation_batches(
    source: SegmentSource, *, batch_size: int, indices: Sequence[int] | None = None, rows: np.ndarray | None = None
) -> Iterator[Segment]:
    """Each of `indices` (default: every segment) once, in order; the last batch is filled up with copies that count nowhere.

    Args:
        rows: as in `training_iterator`.
    """
    rows = np.arange(batch_size) if rows is None else rows
    indices = range(len(source)) if indices is None else indices
    for start in range(0, len(indices), batch_size):
        elements = [source[indices[min(start + row, len(indices) - 1)]] for row in rows]
        for row, element in zip(rows, elements):
            if start + row >= len(indices):
                element |= {name: np.zeros_like(element[name]) for name in ("trainable", "is_first")}
        yield to_segment(jax.tree.map(lambda *leaves: np.stack(leaves), *elements))


def to_segment(batch: dict) -> Segment:
    return Segment(**batch)
