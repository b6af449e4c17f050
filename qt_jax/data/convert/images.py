"""Frames in whatever form they were recorded -> JPEG."""

from __future__ import annotations

import io
import subprocess
import tempfile
from collections.abc import Iterator
from typing import IO

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
        UserError: if the video does not open or ends before.
    """
    import imageio_ffmpeg  # for its ffmpeg; its own reader gives up on a machine that is busy

    seek = ["-ss", f"{start - 0.5 / fps:.6f}"] if start > 0 else []  # between two frames: rounding cannot lose the first
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", *seek, "-i", path]
    command += ["-frames:v", str(count), "-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-"]
    seen = 0
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
        while size := _ppm_size(process.stdout):
            frame = process.stdout.read(3 * size[0] * size[1])
            seen += 1
            yield np.frombuffer(frame, np.uint8).reshape(size[1], size[0], 3)
        log.seek(0)
        said = log.readline().decode(errors="replace").strip()
    if seen < count:
        raise UserError(
            f"{path} has {seen} frames from {start:g} s on, expected {count}{f' (ffmpeg: {said[:200]})' if said else ''}; "
            "the file is damaged or incomplete, copy it again."
        )


def _ppm_size(stream: IO[bytes]) -> tuple[int, int] | None:
    """Width and height of the next image of a stream of PPM; None at its end."""
    if not stream.readline():  # P6
        return None
    width, height = map(int, stream.readline().split())
    stream.readline()  # 255
    return width, height
