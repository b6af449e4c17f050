"""Recorded images, encoded or frames of a video -> pixels."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from qt_jax.data.video import BadImage, Clip, Traffic
from qt_jax.preprocess import resize

QUALITY = 95
"""Of the JPEGs that are written."""
DEPTH = re.compile("depth|rgbd|disparity", re.IGNORECASE)
"""Matches the name of a camera whose images hold depth."""


def channels(shape: tuple[int, ...]) -> tuple[tuple[int, int], int, bool]:
    """Returns (height, width), the number of channels, and whether the shape of a frame has these first.

    A grey frame may have no dim for channels.
    """
    if len(shape) == 2:
        return shape, 1, False
    first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
    height, width, count = (*shape[1:], shape[0]) if first else shape
    return (height, width), count, first


def fill(out: np.ndarray, frames: Sequence[Any]) -> Traffic:
    """Decodes frames into the first of `out`, and sets the others to 0.

    Args:
        out: uint8 [n, H, W, 3]; a frame of another size is resized.
        frames: at most n encoded images, or a `Clip`.

    Returns:
        Bytes of the frames, and those that were read for them; encoded images were read before.

    Raises:
        BadImage: if one does not decode.

    """
    out[len(frames) :] = 0
    traffic = Traffic()
    if isinstance(frames, Clip):
        for place, pixels in enumerate(frames.frames(traffic)):
            out[place] = pixels if pixels.shape == out.shape[1:] else resize(pixels, out.shape[1:3])
        return traffic
    for place, (frame, image) in enumerate(zip(out, frames)):
        try:
            _decode_into(frame, image)
        except Exception as error:  # Pillow's are of many kinds
            raise BadImage("does not decode", place) from error
        traffic.used += len(image)
    return traffic


def _decode_into(frame: np.ndarray, image: bytes) -> None:
    """Decodes an image into `frame`, uint8 [H, W, 3], and resizes it if its size differs."""
    try:
        if simplejpeg.decode_jpeg(image, buffer=frame).shape == frame.shape:
            return
    except ValueError:  # larger, no JPEG, or broken: `decode` finds out which
        pass
    frame[:] = resize(decode(image), frame.shape[:2])


def decode(image: bytes | Clip) -> np.ndarray:
    """Decodes a JPEG, another format that Pillow reads, or the first frame of a clip, to uint8 [H, W, 3]."""
    if isinstance(image, Clip):
        return next(image.frames())
    if simplejpeg.is_jpeg(image):
        return simplejpeg.decode_jpeg(image)
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def encoded(frames: Sequence[Any]) -> Iterator[bytes]:
    """Yields encoded images as they are, and the frames of a clip as JPEG."""
    if isinstance(frames, Clip):
        yield from (simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420") for pixels in frames.frames())
    else:
        yield from map(bytes, frames)


def nbytes(frames: Sequence[Any]) -> int:
    """Returns the bytes of memory that frames take, about; a clip's lie on the disk."""
    if isinstance(frames, Clip):
        return frames.times.nbytes
    return sum(sys.getsizeof(frame) + 8 for frame in frames)
