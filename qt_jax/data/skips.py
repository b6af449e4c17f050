"""Frames that do not decode, found while training reads: printed once an episode, counted, capped.

The cap is `config.data.max_skipped`. A segment with such a frame is replaced by another of the same group,
which depends on the draw alone: a run that resumes draws the same, whatever it found before. The episode's
other segments are used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qt_jax.data import index as indices
from qt_jax.data.mixture import Mixture
from qt_jax.errors import UserError


class DamagedFrame(NamedTuple):
    """A frame that does not decode, by the numbers of its dataset, episode, camera and step."""

    source: int
    episode: int
    camera: int
    step: int


def pack(frames: list[DamagedFrame]) -> np.ndarray:
    """Packs n frames for the way from a worker process, int64 [1 + n, 4].

    The first row stands for no frame, since an array in shared memory cannot be empty.
    """
    return np.asarray([DamagedFrame(-1, -1, -1, -1), *frames], np.int64)


class Skips:
    """The damaged episodes of a run on this host, with those that the indices left out."""

    def __init__(self, mixture: Mixture, max_skipped: int):
        self._mixture, self._cap = mixture, max_skipped
        self._damaged: dict[int, set[int]] = {number: set() for number in range(len(mixture.sources))}

    @property
    def count(self) -> int:
        """The number of damaged episodes."""
        return sum(map(self._count, self._damaged))

    def _count(self, source: int) -> int:
        return len(self._damaged[source]) + sum(self._mixture.sources[source].index.skipped.values())

    def add(self, packed: np.ndarray) -> None:
        """Counts the frames of `pack`, and prints a line for each episode that is new.

        Raises:
            UserError: if a dataset has more damaged episodes than the cap.

        """
        for frame in (DamagedFrame(*row) for row in packed.tolist() if row[0] >= 0):
            if frame.episode not in self._damaged[frame.source]:
                self._damaged[frame.source].add(frame.episode)
                self._report(frame)

    def _report(self, frame: DamagedFrame) -> None:
        source, count = self._mixture.sources[frame.source], self._count(frame.source)
        episodes = count + len(source.index) - len(self._damaged[frame.source])
        camera = self._mixture.interface.observation.cameras[frame.camera]
        place = indices.where(source.directory, source.index, frame.episode, camera)
        line = (
            f"{source.name}: {place}, step {frame.step}: image {camera!r} does not decode ({count} damaged "
            f"of {episodes} episodes; config.data.max_skipped={self._cap})"
        )

        if count > self._cap:
            raise UserError(
                f"{line}. Repair the dataset (`validate` lists all such images), or raise the cap: other "
                "segments then take the place of those with such a frame."
            )
        print(f"{line}; other segments take the place of those with such a frame", flush=True)
