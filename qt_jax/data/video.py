"""Frames of a video at given times, decoded with PyAV when they are needed.

Decoding starts at the last key frame before the first frame that is wanted, and goes over each frame from
there on once. So a part of a video costs its own frames, and those since that key frame. Each thread keeps a
few videos open: to open a file of many episodes takes as long as to decode several frames.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import operator
import os
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

_CLOCK_S = 1e-4
"""Seconds by which float32 times and a video's ticks may differ."""
_EARLIER_S = (0.0, 1.0, 10.0, np.inf)
"""Seconds before the first frame that is wanted, where a key frame is looked for, one after the other: FFmpeg
searches by the times of decoding, and may find a key frame that is shown after that frame."""
_KEPT_OPEN = 8
"""Videos that a thread keeps open."""
_DEEP = re.compile("gray(9|1|f)")
"""Matches FFmpeg's names of grey pixels with more than 8 bits."""


class BadImage(Exception):
    """An image or a frame does not decode; `place` says which of those that were asked for, from 0."""

    def __init__(self, text: str, place: int = 0):
        super().__init__(text)
        self.place = place


@dataclasses.dataclass
class Traffic:
    """Bytes of the encoded frames that were `used`, and of all that were `read` and decoded for them."""

    used: int = 0
    read: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.used + other.used, self.read + other.read)


@dataclasses.dataclass(frozen=True, eq=False)
class Clip(Sequence["Clip"]):
    """Frames of a video: a sequence, whose slices and elements are clips too.

    path: the file; times: float64 [n], increasing seconds on the video's own clock; tolerance_s: how far a
    frame's time may be off.
    """

    path: str
    times: np.ndarray
    tolerance_s: float

    def __len__(self) -> int:
        return len(self.times)

    @overload
    def __getitem__(self, item: int) -> Clip: ...

    @overload
    def __getitem__(self, item: slice) -> Clip: ...

    def __getitem__(self, item: int | slice) -> Clip:
        chosen = item if isinstance(item, slice) else [operator.index(item)]
        return dataclasses.replace(self, times=self.times[chosen])

    def frames(self, traffic: Traffic | None = None) -> Iterator[np.ndarray]:
        """Yields the nearest frame to each time, uint8 [H, W, 3]; no frame is decoded twice.

        Args:
            traffic: is added to.

        Raises:
            BadImage: where there is no frame at such a time, or the video is missing, damaged, of depth, or
                of a codec that cannot be decoded.

        """
        import av

        if not len(self):
            return
        traffic, place = traffic or Traffic(), 0
        try:
            container = _take(self.path)
            decoded = _from_key_frame(container, float(self.times[0]), traffic)
            for shown in self._nearest(decoded):
                traffic.used += shown.size
                yield _pixels(shown.frame)
                place += 1
            _give_back(self.path, container)
        except BadImage as error:
            raise BadImage(f"{self.path} {error}", place) from error
        except FileNotFoundError as error:
            raise BadImage(f"{self.path} is missing; copy the dataset again", place) from error
        except (OSError, av.FFmpegError) as error:
            why = f"{type(error).__name__}: {getattr(error, 'strerror', error)}"
            raise BadImage(f"{self.path} does not decode ({why}); copy the file again", place) from error

    def _nearest(self, decoded: Iterator[_Shown]) -> Iterator[_Shown]:
        """Yields the frame of each time: the one before it, or the one after."""
        before: _Shown | None = None
        place = 0
        times = self.times.tolist()
        for after in itertools.chain(decoded, [None]):
            while after is None or after.at >= times[place] - _CLOCK_S:
                yield self._nearer(before, after, times[place])
                place += 1
                if place == len(times):
                    return
            before = after

    def _nearer(self, before: _Shown | None, after: _Shown | None, wanted: float) -> _Shown:
        near = [one for one in (before, after) if one is not None]
        if near:
            shown = min(near, key=lambda one: abs(one.at - wanted))
            if abs(shown.at - wanted) <= self.tolerance_s + _CLOCK_S:
                return shown
        has = f"the nearest are at {' and '.join(f'{one.at:g} s' for one in near)}" if near else "it has none"
        raise BadImage(
            f"has no frame within {self.tolerance_s:g} s of {wanted:g} s ({has}); the video and the rows do "
            "not belong together, copy the dataset again"
        )


def length_s(path: str) -> float:
    """Returns when a video ends, on its own clock; NaN where it does not say so."""
    import av

    with av.open(path) as container:
        stream: Any = container.streams.video[0]
        if stream.duration is None:
            return np.nan
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)


class _Shown(NamedTuple):
    """A decoded frame: its time in seconds, PyAV's frame, and the bytes that it took."""

    at: float
    frame: Any
    size: int


def _from_key_frame(container: Any, first_s: float, traffic: Traffic) -> Iterator[_Shown]:
    """Yields the frames from the last key frame at `first_s` or before, or from the video's first."""
    stream = container.streams.video[0]
    begin = stream.start_time or 0
    for earlier_s in _EARLIER_S:
        seconds = max(first_s - earlier_s, 0.0)
        offset = max(begin, round(seconds / stream.time_base))
        container.seek(offset, stream=stream)
        decoded = _decoded(container, stream, traffic)
        first = next((shown for shown in decoded if shown.frame.key_frame), None)
        if first is not None and (first.at <= first_s + _CLOCK_S or offset == begin):
            yield first
            yield from decoded
            return


def _decoded(container: Any, stream: Any, traffic: Traffic) -> Iterator[_Shown]:
    tick_s = float(stream.time_base)  # once: a Fraction is slow
    sizes: dict[int | None, int] = {}
    for packet in container.demux(stream):
        traffic.read += packet.size
        sizes[packet.pts] = packet.size
        for frame in packet.decode():
            if frame.pts is None:
                raise BadImage("has frames without a time; write it again as mp4")
            yield _Shown(frame.pts * tick_s, frame, sizes.pop(frame.pts, 0))


def _pixels(frame: Any) -> np.ndarray:
    if _DEEP.match(frame.format.name):
        raise BadImage(
            f"has more than 8 bits a pixel ({frame.format.name}), as depth has; leave its camera out"
        )
    if frame.is_corrupt:
        raise BadImage("does not decode (a damaged frame); copy the file again")
    return frame.to_ndarray(format="rgb24", threads=1)


class _Idle(threading.local):
    """The open videos of a thread that no clip reads."""

    def __init__(self):
        self.videos: collections.OrderedDict[tuple, Any] = collections.OrderedDict()


_IDLE = _Idle()


def _take(path: str) -> Any:
    """Returns the open video, for the caller alone."""
    import av

    container = _IDLE.videos.pop(_version(path), None)
    if container is None:
        container = av.open(path)
        if not container.streams.video:
            raise BadImage("holds no video; copy the file again")
        context = container.streams.video[0].codec_context
        if context is None:
            raise BadImage("has a codec that PyAV cannot decode; write it again as h264 or av1")
        context.thread_count = 1  # the loader has threads of its own
    return container


def _give_back(path: str, container: Any) -> None:
    _IDLE.videos[_version(path)] = container
    while len(_IDLE.videos) > _KEPT_OPEN:
        _IDLE.videos.popitem(last=False)[1].close()


def _version(path: str) -> tuple:
    found = os.stat(path)
    return path, found.st_mtime_ns, found.st_size
