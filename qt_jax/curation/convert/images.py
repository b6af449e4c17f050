"""Recorded frames, encoded or as pixels -> JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
import simplejpeg
from PIL import Image

from qt_jax.data.images import QUALITY, channels
from qt_jax.errors import UserError

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")
"""First bytes of an encoded image: JPEG, PNG, WebP."""
_DEEP = ("I", "F")
"""First letters of Pillow's modes of 16 and 32 bits: depth, most often, which 8 bits would cut off."""


def encoded(
    frames: Iterator[bytes | np.ndarray],
    size: tuple[int, int],
    resize: bool,
    bgr: bool,
    where: Callable[[int], str],
) -> Iterator[bytes]:
    """Yields each frame as `jpeg` returns it.

    Args:
        frames: encoded images, or uint8 [H, W, 3].
        size: (height, width) of the result.
        resize: whether a frame of another size is resized, or is an error.
        bgr: whether red and blue are to be swapped.
        where: names the place of a frame, by its number, in an error: file, episode, step and camera.

    Raises:
        UserError: for a frame that cannot be read, does not decode, or has another size.
    """
    count = 0
    while True:
        try:
            frame = next(frames, None)
            if frame is None:
                return
            image = jpeg(frame, size, resize, bgr)
        except UserError as error:
            raise UserError(f"{where(count)}: {error}") from error
        except Exception as error:  # Pillow's and simplejpeg's are of many kinds
            line = (str(error).splitlines() or [""])[0][:200]
            raise UserError(
                f"{where(count)}: the image does not decode ({type(error).__name__}: {line}); the file is "
                "damaged, copy it again."
            ) from error
        yield image
        count += 1


def jpeg(frame: bytes | np.ndarray, size: tuple[int, int], resize: bool, bgr: bool = False) -> bytes:
    """Returns a frame as a JPEG file of `size`; a JPEG that fits is returned unchanged.

    Args:
        frame: an encoded image, or uint8 [H, W, 3].
        size: (height, width) of the result.
        resize: whether a frame of another size is resized, or is an error.
        bgr: whether red and blue are to be swapped.

    Raises:
        UserError: if it has another size and `resize` is False, or more than 8 bits a pixel.
        Exception: of the decoder's kind, if it does not decode.
    """
    if isinstance(frame, bytes):
        if frame[:2] == b"\xff\xd8":
            height, width, colours, _ = simplejpeg.decode_jpeg_header(frame)
            if (height, width) == size and colours == "YCbCr" and not bgr:
                # Decoding it small finds what is cut off or damaged as well, and costs less.
                simplejpeg.decode_jpeg(frame, fastdct=True, min_height=1, min_width=1, min_factor=8)
                return frame
        frame = _decoded(frame)
    if frame.shape[:2] != size:
        if not resize:
            raise UserError(
                f"an image is {frame.shape[0]}x{frame.shape[1]}, expected {size[0]}x{size[1]}; give "
                "--image_size=HEIGHT,WIDTH."
            )
        frame = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))
    colours = "BGR" if bgr else "RGB"
    return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), QUALITY, colours, "420")


def size(frame: bytes | np.ndarray) -> tuple[int, int]:
    """Returns (height, width) of an encoded image or a uint8 [H, W, 3].

    Raises:
        UserError: for bytes that are no image.
    """
    if isinstance(frame, bytes):
        try:
            return Image.open(io.BytesIO(frame)).size[::-1]
        except Exception as error:
            raise UserError(f"the image does not decode ({type(error).__name__}).") from error
    return frame.shape[:2]


def is_deep(image: bytes) -> bool:
    """Returns whether an encoded image has more than 8 bits a pixel; False for bytes that are no image."""
    try:
        return Image.open(io.BytesIO(image)).mode.startswith(_DEEP)
    except Exception:  # Pillow's are of many kinds
        return False


def _decoded(image: bytes) -> np.ndarray:
    opened = Image.open(io.BytesIO(image))
    if opened.mode.startswith(_DEEP):
        raise UserError(
            f"an image has more than 8 bits a pixel (mode {opened.mode}), as depth has; leave it out with "
            "--cameras."
        )
    return np.asarray(opened.convert("RGB"))


def rgb(frame: np.ndarray, scale: float) -> np.ndarray:
    """Returns a frame as uint8 [H, W, 3], without alpha.

    Args:
        frame: grey, RGB or RGBA, with its channels last, first, or (grey) without a dim for them.
        scale: factor that brings a frame of floats to 0..255; 1 for uint8.
    """
    _, count, first = channels(frame.shape)
    if frame.ndim == 2:
        frame = frame[..., None]
    elif first:
        frame = np.moveaxis(frame, 0, -1)
    if frame.dtype != np.uint8:
        frame = np.rint(np.clip(np.asarray(frame, np.float32) * scale, 0.0, 255.0)).astype(np.uint8)
    return np.repeat(frame, 3, axis=-1) if count == 1 else frame[..., :3]
