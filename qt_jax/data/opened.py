"""What `qt_jax.open_dataset` returns: episodes as stored, and segments as the learner gets them."""

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
    """One dataset, or several that train together, with the filters, splits and statistics of training."""

    def __init__(self, recipe: loader.Recipe):
        self._recipe = recipe

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the datasets, in the order of the mixture."""
        return tuple(source.name for source in self._recipe.mixture.sources)

    @property
    def interface(self) -> Interface:
        """The interface of a network for all the datasets: every named dim and camera, the longest state."""
        return self._recipe.mixture.interface

    def count(self, split: str = "train") -> int:
        """Returns the number of episodes of a split."""
        return sum(len(numbers) for _, numbers in self._numbers(split))

    def episodes(self, split: str = "train") -> Iterator[Episode]:
        """Reads the episodes of a split one after the other, images encoded, the step penalty subtracted.

        Raises:
            UserError: for a split other than "train" and "validation", or an episode that can no longer be
                read.

        """
        penalty, cache = self._recipe.step_penalty, self._recipe.cache
        for source, numbers in self._numbers(split):
            for number in numbers.tolist():
                yield indices.read(source.directory, source.index, source.spec, number, penalty, cache)

    def segments(self, batch_size: int, threads: int = 1) -> Iterator[Segment]:
        """Reads batches of numpy arrays without end, in the order of training with the config's seed.

        Args:
            batch_size: rows of a batch.
            threads: number of threads that read.

        """
        iterator = loader.TrainingIterator(self._recipe, batch_size=batch_size, threads=threads)
        try:
            yield from iterator
        finally:
            iterator.close()

    def _numbers(self, split: str) -> list[tuple[Source, np.ndarray]]:
        if split not in SPLITS:
            raise UserError(f"There is no split {split!r}; expected one of {SPLITS}.")
        return [(source, getattr(source, split)) for source in self._recipe.mixture.sources]
