"""Frames of a video at given times, through ffmpeg."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import IO

import numpy as np

from qt_jax.errors import UserError

_CLOCK_S = 1e-4
"""What float32 times and a video's ticks may differ by."""
_SHOWN = re.compile(rb"showinfo.*\bn: *\d+ .*pts_time:(\S+)")
_LENGTH = re.compile(rb"Duration: (\d+):(\d+):([\d.]+), start: ([-\d.]+)")
_WRONG = re.compile(rb"\[(?:error|fatal)\] (.*)|(corrupt decoded frame)")


def frames(path: str, times: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
    """For each of `times`, which grow, the frame that is shown then: uint8 [H, W, 3].

    Frames between them, before and after, are passed over.

    Args:
        times: seconds, on the video's own clock.
        tolerance_s: how far a frame's time may be off.

    Raises:
        UserError: where there is no frame at such a time, the video does not open, or the decoder finds it damaged.
    """
    import imageio_ffmpeg  # for its ffmpeg; its own reader knows no times

    # Without an accurate seek the frames come from a key frame before the first time on, with their own times.
    seek = (
        ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", f"{times[0] - tolerance_s:.6f}"]
        if times[0] > tolerance_s
        else []
    )
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "level+info",
    ]
    command += [
        "-threads",
        "1",
        "-copyts",
        *seek,
        "-i",
        path,
    ]  # one thread: the log keeps step with the frames
    command += [
        "-an",
        "-fps_mode",
        "passthrough",
        "-vf",
        "showinfo=checksum=0",
        "-f",
        "image2pipe",
        "-c:v",
        "ppm",
        "-",
    ]
    with tempfile.NamedTemporaryFile() as written, open(written.name, "rb") as read:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written) as process:
            try:
                yield from _at(path, times, tolerance_s, process.stdout, _Log(path, read, process))
            finally:
                process.kill()


def length_s(path: str) -> float:
    """When a video ends, on its own clock; NaN where it does not say so."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", path]
    said = _LENGTH.search(subprocess.run(command, capture_output=True).stderr)
    return 3600 * int(said[1]) + 60 * int(said[2]) + float(said[3]) + float(said[4]) if said else np.nan


class _Log:
    """ffmpeg's messages, among them the time of each frame before it comes."""

    def __init__(self, path: str, lines: IO[bytes], process: subprocess.Popen):
        self._path, self._lines, self._process, self._rest = path, lines, process, b""

    def next_time(self) -> float | None:
        """Of the next frame; None at the end. Raises UserError for what the decoder finds wrong before it."""
        while True:
            ended = self._process.poll() is not None  # before the read: what it wrote last is read then
            line = self._lines.readline()
            self._rest += line
            if not line.endswith(b"\n"):
                if ended and not line:
                    return None
                time.sleep(0.001)
                continue
            line, self._rest = self._rest, b""
            if wrong := _WRONG.search(line):
                said = (wrong[1] or wrong[2]).decode(errors="replace").strip()[:200]
                raise UserError(
                    f"{self._path} does not decode (ffmpeg: {said}); the file is damaged or incomplete, copy it again."
                )
            if shown := _SHOWN.search(line):
                return float(shown[1].replace(b"NOPTS", b"nan"))


def _at(
    path: str, times: np.ndarray, tolerance_s: float, stream: IO[bytes], log: _Log
) -> Iterator[np.ndarray]:
    """The nearest frame to each of `times`: of the one before a time and the one after."""
    before: tuple[float, np.ndarray] | None = None
    place = 0
    while place < len(times):
        at = log.next_time()
        after = None if at is None else (at, _ppm(stream))
        while place < len(times) and (at is None or at >= times[place] - _CLOCK_S):
            near = [shown for shown in (before, after) if shown is not None]
            nearest = min(
                near, key=lambda shown, wanted=times[place]: abs(shown[0] - wanted), default=(np.nan, None)
            )
            if not abs(nearest[0] - times[place]) <= tolerance_s + _CLOCK_S:
                has = (
                    f"the nearest are at {' and '.join(f'{shown[0]:g} s' for shown in near)}"
                    if near
                    else "it has none"
                )
                raise UserError(
                    f"{path} has no frame within {tolerance_s:g} s of {times[place]:g} s ({has}); the video and the rows do not "
                    "belong together: copy the dataset again, or give a wider --tolerance_s."
                )
            yield nearest[1]
            place += 1
        before = after or before


def _ppm(stream: IO[bytes]) -> np.ndarray:
    """The next image of a stream of PPM."""
    stream.readline()  # P6
    width, height = map(int, stream.readline().split())
    stream.readline()  # 255
    return np.frombuffer(stream.read(3 * width * height), np.uint8).reshape(height, width, 3)
