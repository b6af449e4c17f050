"""What a frozen image encoder made of every frame of a dataset, on disk: read in place of images.

A file holds the frames of one camera in one shard, float16 [frames, h, w, C]; `training/feature_cache.py`
writes it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from qt_jax.data.episodes import Episode
from qt_jax.data.index import Index
from qt_jax.data.video import BadImage, Traffic
from qt_jax.segment import FEATURES


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """The frames of one episode in a file; a slice of them is read when it is asked for."""

    path: str
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self.count)
        return np.array(np.load(self.path, mmap_mode="r")[self.first + start : self.first + stop])


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of all datasets of a mixture.

    shape: [h, w, C] of a frame; files: of each dataset {camera: a file each shard}; places: of each dataset
    where the episodes of its index begin in their files, int64 [episodes].
    """

    shape: tuple[int, ...]
    files: tuple[dict[str, list[str]], ...]
    places: tuple[np.ndarray, ...]

    def put(self, source: int, index: Index, number: int, episode: Episode) -> Episode:
        """Returns an episode, `number` of the dataset's index, with features in place of its images."""
        shard, first = index.columns["shard"][number], int(self.places[source][number])
        images = {
            camera: StoredFrames(files[shard], first, len(episode.state))
            for camera, files in self.files[source].items()
        }
        return dataclasses.replace(episode, images=images)


def places(index: Index) -> np.ndarray:
    """Returns where each episode's frames begin in its shard's file, int64 [episodes].

    Each has room for T + 1, whether its last observation was kept or not.
    """
    order = np.argsort(index.columns["shard"], kind="stable")
    shards, frames = index.columns["shard"][order], index.columns["length"][order].astype(np.int64) + 1
    begins = np.cumsum(frames) - frames
    found = np.empty(len(order), np.int64)
    found[order] = begins - begins[np.searchsorted(shards, shards)]
    return found


def missing(shape: tuple[int, ...]) -> np.ndarray:
    """Returns what stands for frames that do not decode."""
    return np.full(shape, np.nan, FEATURES)


def fill(out: np.ndarray, frames: np.ndarray) -> Traffic:
    """Puts the features of frames into the first of `out`, and sets the others to 0.

    Args:
        out: float16 [n, h, w, C].
        frames: at most n of them.

    Returns:
        Bytes of the frames.

    Raises:
        BadImage: if the image of one did not decode.

    """
    if len(bad := np.flatnonzero(np.isnan(frames[:, 0, 0, 0]))):
        raise BadImage("does not decode", int(bad[0]))
    out[: len(frames)], out[len(frames) :] = frames, 0
    return Traffic(frames.nbytes, frames.nbytes)
