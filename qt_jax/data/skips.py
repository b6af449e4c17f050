"""Frames that do not decode, met while training reads: named once an episode, counted, capped by
`config.data.max_skipped`.

A segment with such a frame is replaced by another of the same group, which is a function of the draw alone: a
run that resumes draws the same, whatever it met before. The episode's other segments are used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qt_jax.data import index as indices
from qt_jax.data.mixture import Mixture
from qt_jax.errors import UserError


class Met(NamedTuple):
    """A frame that does not decode: `step` of an episode, by the numbers of its camera and its dataset."""

    source: int
    episode: int
    camera: int
    step: int


def pack(met: list[Met]) -> np.ndarray:
    """int64 [1 + n, 4], as it travels from a worker process: never empty, which shared memory cannot be."""
    return np.asarray([Met(-1, -1, -1, -1), *met], np.int64)


class Skips:
    """The damaged episodes of a run on this host, those that the indices left out among them."""

    def __init__(self, mixture: Mixture, max_skipped: int):
        self._mixture, self._cap = mixture, max_skipped
        self._met: dict[int, set[int]] = {number: set() for number in range(len(mixture.sources))}

    @property
    def count(self) -> int:
        return sum(map(self._count, self._met))

    def _count(self, source: int) -> int:
        return len(self._met[source]) + sum(self._mixture.sources[source].index.skipped.values())

    def meet(self, packed: np.ndarray) -> None:
        """Tells of each episode that is new.

        Raises:
            UserError: beyond the cap, which is for each dataset.

        """
        for met in (Met(*row) for row in packed.tolist() if row[0] >= 0):
            if met.episode not in self._met[met.source]:
                self._met[met.source].add(met.episode)
                self._tell(met)

    def _tell(self, met: Met) -> None:
        source, count = self._mixture.sources[met.source], self._count(met.source)
        camera = self._mixture.interface.observation.cameras[met.camera]
        place = (
            f"{source.name}: {indices.where(source.directory, source.index, met.episode)}, step {met.step}"
        )
        episodes = count + len(source.index) - len(self._met[met.source])
        told = (
            f"{place}: image {camera!r} does not decode ({count} damaged of {episodes} episodes; "
            f"config.data.max_skipped={self._cap})"
        )
        if count > self._cap:
            raise UserError(
                f"{told}. Repair the dataset (`validate` lists all such images), or raise the cap: other "
                "segments then take the place of those with such a frame."
            )
        print(f"{told}; other segments take the place of those with such a frame", flush=True)
