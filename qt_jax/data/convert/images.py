"""Frames in whatever form they were recorded -> JPEG."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import simplejpeg
from PIL import Image

from qt_jax.errors import UserError

QUALITY = 95


def jpeg(frame: bytes | np.ndarray, size: tuple[int, int], resize: bool) -> bytes:
    """A JPEG of `size` (height, width) of an encoded image or a uint8 [H, W, 3]; a JPEG that fits is passed on as it is.

    Raises:
        UserError: if it has another size and `resize` is False.
    """
    if isinstance(frame, bytes):
        if frame[:2] == b"\xff\xd8":
            height, width, colours, _ = simplejpeg.decode_jpeg_header(frame)
            if (height, width) == size and colours == "YCbCr":
                return frame
        frame = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"))
    if frame.shape[:2] != size:
        if not resize:
            raise UserError(f"An image is {frame.shape[0]}x{frame.shape[1]}, expected {size[0]}x{size[1]}; give --image_size=HEIGHT,WIDTH.")
        frame = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), QUALITY, "RGB", "420")


def video(path: str, start: float, count: int, fps: float) -> Iterator[np.ndarray]:
    """`count` frames, uint8 [H, W, 3], from `start` seconds on.

    Raises:
        UserError: if the video ends before.
    """
    import imageio_ffmpeg

    seek = ["-ss", f"{start - 0.5 / fps:.6f}"] if start > 0 else []  # between two frames: rounding cannot lose the first
    reader = imageio_ffmpeg.read_frames(path, input_params=seek, output_params=["-frames:v", str(count), "-fps_mode", "passthrough"])
    width, height = next(reader)["size"]
    seen = 0
    for frame in reader:
        seen += 1
        yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    if seen < count:
        raise UserError(
            f"{path} has {seen} frames from {start:g} s on, expected {count}; the file is damaged or incomplete, copy it again."
        )
