"""Videos of the episodes that `inspect` shows, one a camera."""

from __future__ import annotations

import fractions
import io
from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np
from etils import epath

from qt_jax import storage
from qt_jax.curation.shown_episodes import Shown
from qt_jax.data.images import decode
from qt_jax.data.specs import DatasetSpec


def write(shown: list[Shown], spec: DatasetSpec, folder: epath.Path) -> list[str]:
    """Writes folder/KIND_NUMBER_CAMERA.mp4 of each episode and camera, at the speed of the robot.

    Args:
        shown: the episodes.
        spec: of the dataset, for the size of its images.
        folder: made if it is not there.

    Returns:
        A line for each video with frames that did not decode, which are black.

    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for one in shown:
        for camera, encoded in one.episode.images.items():
            size = spec.stored_size(camera)
            path, bad = folder / f"{one.kind}_{one.number}_{camera}.mp4", list[int]()
            storage.replace_bytes(path, mp4(_decoded(encoded, size, bad), size, 1 / one.episode.dt))
            if bad:
                lines.append(f"{path}: {len(bad)} of {len(encoded)} frames do not decode and are black")
    return lines


def _decoded(encoded: Any, size: tuple[int, int], bad: list[int]) -> Iterator[np.ndarray]:
    """Yields the frames; adds to `bad` the steps of those that do not decode."""
    for step in range(len(encoded)):
        try:
            yield decode(encoded[step])
        except Exception:  # Pillow's are of many kinds
            bad.append(step)
            yield np.zeros((*size, 3), np.uint8)


def mp4(frames: Iterable[np.ndarray], size: tuple[int, int], rate: float) -> bytes:
    """Encodes frames as H.264.

    Args:
        frames: uint8 [H, W, 3] each.
        size: (H, W). H.264 takes even ones alone: the last row or column is doubled where they are odd.
        rate: frames a second.

    """
    file, odd = io.BytesIO(), [(0, side % 2) for side in size]
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            even = np.pad(frame, [*odd, (0, 0)], "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
