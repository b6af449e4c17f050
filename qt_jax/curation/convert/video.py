"""Reads the frames of a video at given times, with ffmpeg."""

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
"""Seconds by which float32 times and a video's ticks may differ."""
_EARLIER_S = 1.0
"""Seconds before the first frame that is wanted, where the search for a key frame begins: ffmpeg searches by
the times of decoding, and the frames after a key frame in the middle of a video may lack what they refer to.
"""
_SHOWN = re.compile(rb"showinfo.*\bn: *\d+ .*pts_time:(\S+).* fmt:(\S+)")
_DEEP = re.compile("gray(9|1|f)")
"""Matches ffmpeg's names of grey pixels with more than 8 bits."""
_LENGTH = re.compile(rb"Duration: (\d+):(\d+):([\d.]+), start: ([-\d.]+)")
_ERROR = re.compile(rb"\[error\] (.*)")
_DAMAGE = re.compile(rb"corrupt decoded frame|Error submitting|Error opening|Invalid data found|\[fatal\]")
"""Matches messages about damaged frames; decoders call more an error that leaves the frames whole."""


def frames(path: str, times: np.ndarray, tolerance_s: float) -> Iterator[np.ndarray]:
    """Yields the nearest frame to each of `times`: uint8 [H, W, 3].

    Args:
        path: of the video.
        times: increasing seconds, on the video's own clock.
        tolerance_s: how far a frame's time may be off.

    Raises:
        UserError: where there is no frame at such a time, or the video does not open, holds depth, or is
            damaged.
    """
    import imageio_ffmpeg  # for its ffmpeg; its own reader knows no times

    start_s = times[0] - _EARLIER_S
    # Without an accurate seek the frames come from a key frame on, with their own times.
    seek = ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", f"{start_s:.6f}"] if start_s > 0 else []
    # One thread: the log keeps step with the frames.
    before = "-nostdin -hide_banner -nostats -loglevel level+info -threads 1 -copyts".split()
    after = "-an -fps_mode passthrough -vf showinfo=checksum=0 -f image2pipe -c:v ppm -pix_fmt rgb24 -"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *before, *seek, "-i", path, *after.split()]
    with tempfile.NamedTemporaryFile() as written, open(written.name, "rb") as read:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written) as process:
            assert process.stdout is not None
            try:
                yield from _at(path, times, tolerance_s, process.stdout, _Log(read, process))
            finally:
                process.kill()


def length_s(path: str) -> float:
    """Returns when a video ends, on its own clock; NaN where it does not say so."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", path]
    found = _LENGTH.search(subprocess.run(command, capture_output=True).stderr)
    if not found:
        return np.nan
    hours, minutes, seconds, start_s = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds + start_s


class _Log:
    """Reads ffmpeg's messages, among them the time of each frame before it comes."""

    def __init__(self, lines: IO[bytes], process: subprocess.Popen):
        self._lines, self._process, self._error = lines, process, ""

    def next_frame(self) -> tuple[float | None, str, str]:
        """Returns the time of the next frame (None at the end), its pixel format, and damage before it."""
        wrong = ""
        for line in self._whole_lines():
            if error := _ERROR.search(line):
                self._error = error[1].decode(errors="replace").strip()[:200]
            if damage := _DAMAGE.search(line):
                wrong = self._error or damage[0].decode()
            if shown := _SHOWN.search(line):
                return float(shown[1].replace(b"NOPTS", b"nan")), shown[2].decode(), wrong
        return None, "", wrong

    def _whole_lines(self) -> Iterator[bytes]:
        rest = b""
        while True:
            ended = self._process.poll() is not None  # before the read: what it wrote last is read then
            line = self._lines.readline()
            rest += line
            if rest.endswith(b"\n"):
                yield rest
                rest = b""
            elif ended and not line:
                return
            elif not line:
                time.sleep(0.001)


def _at(
    path: str, times: np.ndarray, tolerance_s: float, stream: IO[bytes], log: _Log
) -> Iterator[np.ndarray]:
    """Yields the nearest frame to each of `times`: the one before a time, or the one after."""
    before: tuple[float, np.ndarray] | None = None
    place = 0
    while place < len(times):
        at, kind, wrong = log.next_frame()
        if _DEEP.match(kind):
            raise UserError(
                f"{path} has more than 8 bits a pixel ({kind}), as depth has; leave it out with --cameras."
            )
        if wrong and (at is None or at >= times[0] - tolerance_s):
            raise UserError(
                f"{path} does not decode (ffmpeg: {wrong}); the file is damaged or incomplete, copy it again."
            )
        after = None if at is None else (at, _ppm(stream))
        near = [one for one in (before, after) if one is not None]
        while place < len(times) and (at is None or at >= times[place] - _CLOCK_S):
            yield _nearest(path, times[place], tolerance_s, near)
            place += 1
        before = after or before


def _nearest(
    path: str, wanted: float, tolerance_s: float, near: list[tuple[float, np.ndarray]]
) -> np.ndarray:
    if near:
        at, frame = min(near, key=lambda one: abs(one[0] - wanted))
        if abs(at - wanted) <= tolerance_s + _CLOCK_S:
            return frame
    has = f"the nearest are at {' and '.join(f'{at:g} s' for at, _ in near)}" if near else "it has none"
    raise UserError(
        f"{path} has no frame within {tolerance_s:g} s of {wanted:g} s ({has}); the video and the rows do "
        "not belong together: copy the dataset again, or give a wider --tolerance_s."
    )


def _ppm(stream: IO[bytes]) -> np.ndarray:
    """Reads the next image of a stream of PPM: uint8 [H, W, 3]."""
    stream.readline()  # P6
    width, height = map(int, stream.readline().split())
    stream.readline()  # 255
    return np.frombuffer(stream.read(3 * width * height), np.uint8).reshape(height, width, 3)
