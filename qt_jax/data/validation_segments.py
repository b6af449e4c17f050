"""Segments that validation looks at: which, always the same ones, and in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from qt_jax.data.loader import Recipe, SegmentReader
from qt_jax.data.order import Draw
from qt_jax.data.skips import Skips
from qt_jax.segment import Segment


def held_out(recipe: Recipe, limit: int) -> list[Draw]:
    """Returns all validation segments in order, or at most `limit` of them at even distances."""
    return spread(recipe, [source.validation for source in recipe.mixture.sources], limit)


def trained(recipe: Recipe, limit: int) -> list[Draw]:
    """Returns training segments to look at, in order: at most `limit` of them at even distances."""
    return spread(recipe, [source.train for source in recipe.mixture.sources], limit)


def spread(recipe: Recipe, episodes: list[np.ndarray], limit: int) -> list[Draw]:
    """Returns the segments of these episodes in order, or at most `limit` of them at even distances.

    Args:
        recipe: what the segments hold.
        episodes: of each dataset the numbers of episodes in its index.
        limit: of segments.

    """
    draws = [
        Draw(number, int(episode), cut, 0, 0)
        for number, (source, own) in enumerate(zip(recipe.mixture.sources, episodes))
        for episode in own
        for cut in range(len(recipe.cutting.starts(int(source.index.columns["length"][episode]))))
    ]
    return draws[:: max(1, -(-len(draws) // limit))]


def batches(
    recipe: Recipe,
    draws: list[Draw],
    *,
    batch_size: int,
    rows: np.ndarray | None = None,
    skips: Skips | None = None,
    memory: int = 0,
) -> Iterator[Segment]:
    """Yields batches of each of `draws` once, in order, not relabelled.

    Copies that count in no metric fill up the last batch. Nor does a segment count whose frame does not
    decode.

    Args:
        recipe: what the segments hold.
        draws: what `held_out` or `trained` returned.
        batch_size: rows of the global batch.
        rows: as in `TrainingIterator`.
        skips: as in `TrainingIterator`.
        memory: bytes of encoded episodes that are kept while their segments are read.

    """
    reader = SegmentReader(dataclasses.replace(recipe, relabel_rate=0.0), memory)
    skips = skips or Skips(recipe.mixture, recipe.max_skipped)
    rows = np.arange(batch_size) if rows is None else rows
    for start in range(0, len(draws), batch_size):
        batch, damaged = reader.batch([draws[min(start + row, len(draws) - 1)] for row in rows])
        skips.add(damaged)
        copies = start + rows >= len(draws)
        batch.trainable[copies] = batch.is_first[copies] = False
        yield batch
