"""Data that was opened to look at: its episodes as they are stored, and its segments as the learner gets
them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qt_jax.data import index as indices
from qt_jax.data import loader
from qt_jax.data.episodes import Episode
from qt_jax.data.mixture import Source
from qt_jax.errors import UserError
from qt_jax.segment import Segment
from qt_jax.specs import Interface

SPLITS = ("train", "validation")


class Dataset:
    """One dataset, or several that train together, with the filters, splits and statistics that training has."""

    def __init__(self, recipe: loader.Recipe):
        self._recipe = recipe

    @property
    def names(self) -> tuple[str, ...]:
        """Of the datasets, in the order of the mixture."""
        return tuple(source.name for source in self._recipe.mixture.sources)

    @property
    def interface(self) -> Interface:
        """What a network for all the datasets is between: every named dim, every camera, the longest state."""
        return self._recipe.mixture.interface

    def count(self, split: str = "train") -> int:
        """How many episodes the split has."""
        return sum(len(numbers) for _, numbers in self._numbers(split))

    def episodes(self, split: str = "train") -> Iterator[Episode]:
        """Reads the episodes of a split one after the other, images still encoded, the step penalty taken
        off.

        Raises:
            UserError: for another split than "train" or "validation", or an episode that can no longer be
                read.

        """
        recipe = self._recipe
        for source, numbers in self._numbers(split):
            for number in numbers:
                yield indices.read(
                    source.directory,
                    source.index,
                    source.spec,
                    int(number),
                    recipe.step_penalty,
                    recipe.cache,
                )

    def segments(self, batch_size: int, threads: int = 1) -> Iterator[Segment]:
        """Reads batches without end, in the order of training with this seed; numpy arrays, see `Segment`."""
        iterator = loader.TrainingIterator(self._recipe, batch_size=batch_size, threads=threads)
        try:
            yield from iterator
        finally:
            iterator.close()

    def _numbers(self, split: str) -> list[tuple[Source, np.ndarray]]:
        if split not in SPLITS:
            raise UserError(f"There is no split {split!r}; expected one of {SPLITS}.")
        return [(source, getattr(source, split)) for source in self._recipe.mixture.sources]
