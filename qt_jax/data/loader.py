"""Segments -> shuffled batches whose position can be saved, and back to it."""

from __future__ import annotations

from collections.abc import Iterator

import grain
import jax
import numpy as np

from qt_jax.data.segments import SegmentSource
from qt_jax.errors import UserError
from qt_jax.specs import Segment


def training_iterator(
    source: SegmentSource, *, batch_size: int, seed: int, read_threads: int, demonstration_share: float = 0.0
) -> grain.DatasetIterator:
    """Endless batches (dicts of arrays, see `to_segment`), reshuffled each epoch.

    `get_state` / `set_state` of the iterator continue bit for bit.

    Args:
        demonstration_share: share of the segments drawn from demonstrations, in (0, 1); 0: every segment equally often.

    Raises:
        UserError: if one batch asks for more segments than there are, or the share for a kind of episode that is not there.
    """
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
    dataset = grain.MapDataset.mix(shuffled, weights).map(source.__getitem__).batch(batch_size, drop_remainder=True)
    options = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=4 * read_threads)
    return iter(dataset.to_iter_dataset(options))


def save_position(iterator: grain.DatasetIterator) -> grain.checkpoint.CheckpointSave:
    """The Orbax argument that saves where `iterator` stands."""
    return grain.checkpoint.CheckpointSave(iterator)


def restore_position(iterator: grain.DatasetIterator) -> grain.checkpoint.CheckpointRestore:
    """The Orbax argument that moves `iterator` to where the saved one stood."""
    return grain.checkpoint.CheckpointRestore(iterator)


def validation_batches(source: SegmentSource, *, batch_size: int, indices: list[int] | None = None) -> Iterator[Segment]:
    """Each of `indices` (default: every segment) once, in order. The last batch is filled up with copies that are not trainable."""
    indices = list(range(len(source))) if indices is None else indices
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        elements = [source[i] for i in chosen]
        filler = {
            **elements[-1],
            "trainable": np.zeros_like(elements[-1]["trainable"]),
            "is_first": np.zeros_like(elements[-1]["is_first"]),
        }
        elements += [filler] * (batch_size - len(chosen))
        yield to_segment(jax.tree.map(lambda *leaves: np.stack(leaves), *elements))


def to_segment(batch: dict) -> Segment:
    return Segment(**batch)
