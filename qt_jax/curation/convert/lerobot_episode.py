"""An episode of a LeRobot folder: where it is cut, and what is recorded of each piece."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation.convert import images, settings
from qt_jax.curation.convert.recording import Frames, Recording, outcome, turned
from qt_jax.curation.convert.settings import Settings
from qt_jax.data import lerobot_meta
from qt_jax.data.lerobot_meta import Entry
from qt_jax.data.video import BadImage, Clip
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a worker needs to read any episode of the folder.

    Attributes:
        root: the folder.
        fps: steps a second.
        cameras: {key: name in the dataset}.
        size: (height, width) of all images in the dataset.
        action: keys that are joined to the action.
        state: keys that are joined to the state.
        dims: {key: dims} of each part of the action and of the state.
        success: "all", "none", or the key of success.
        tasks: {task_index: instruction}.
        columns: keys of all numbers that are read.
    """

    root: str
    fps: float
    cameras: dict[str, str]
    size: tuple[int, int]
    action: tuple[str, ...]
    state: tuple[str, ...]
    dims: dict[str, int]
    success: str
    tasks: dict[int, str]
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of an episode, which become an episode of the dataset.

    Attributes:
        index: its place in the dataset.
        entry: the episode that it is a part of.
        start: its first row.
        stop: the row after its last one.
        observed: whether row `stop` holds the observation after the last action.
    """

    index: int
    entry: Entry
    start: int
    stop: int
    observed: bool


def name_of(layout: Layout, entry: Entry) -> str:
    """Returns what messages call an episode."""
    return f"{layout.root}/{entry.file}: episode {entry.number}"


def cut(given: Settings, layout: Layout, entry: Entry, table: Any) -> list[Piece]:
    """Returns the pieces of an episode, all with index 0: one piece where nothing cuts it.

    Raises:
        UserError: for a gap in its timestamps or a second instruction, unless --cut makes two episodes of it.
    """
    name = name_of(layout, entry)
    times, step_s = times_of(layout, table), 1.0 / layout.fps
    if (unknown := np.flatnonzero(~np.isfinite(times))).size:
        raise UserError(
            f"{name}, step {unknown[0]}: its timestamp is no number; mend the file or leave the episode out."
        )
    in_time = np.abs(np.diff(times) - step_s) <= _tolerance_s(given, layout)
    gaps = set((np.flatnonzero(~in_time) + 1).tolist())
    if gaps and "gap" not in given.cut:
        step = min(gaps)
        after_s = times[step] - times[step - 1]
        raise UserError(
            f"{name}, step {step}: its timestamp is {times[step]:.4g} s, {after_s:.4g} s after the one "
            f"before; expected {step_s:.4g} s at {layout.fps:g} fps. --cut=gap makes two episodes of it, a "
            "wider --tolerance_s takes it as it is."
        )

    texts = [_task_text(layout, task) for task in table["task_index"].to_pylist()]
    changes: set[int] = set()
    if not given.instruction:
        changes = {step for step in range(1, len(texts)) if texts[step] != texts[step - 1]}
    if changes and "instruction" not in given.cut:
        step = min(changes)
        raise UserError(
            f"{name}, step {step}: its task changes from {texts[step - 1]!r} to {texts[step]!r}, expected "
            "one instruction an episode. --cut=instruction makes an episode of each part, "
            "--instruction='...' gives all episodes the same."
        )

    edges = [0, *sorted(gaps | changes), entry.length]

    def observed(stop):
        return stop < entry.length and stop not in gaps

    return [Piece(0, entry, start, stop, observed(stop)) for start, stop in zip(edges, edges[1:])]


def _task_text(layout: Layout, task: int | None) -> str:
    """Returns the instruction of a task; "" where there is none."""
    return "" if task is None else str(layout.tasks.get(task) or "").strip()


def times_of(layout: Layout, table: Any, first: int = 0) -> np.ndarray:
    """Returns the seconds from the start of the episode, of rows from `first` on."""
    if "timestamp" not in layout.columns:
        return np.arange(first, first + len(table)) / layout.fps
    return lerobot_meta.numbers(table["timestamp"], np.float64)


def _tolerance_s(given: Settings, layout: Layout) -> float:
    return given.tolerance_s or 0.1 / layout.fps


def _vectors(layout: Layout, piece: Piece, rows: Any, key: str) -> np.ndarray:
    """Returns a part of the action or of the state, [rows, dims].

    Raises:
        UserError: for a row with another number of dims than the metadata says.
    """
    values, dims = lerobot_meta.numbers(rows[key], np.float32), layout.dims[key]
    if values.size == len(rows) * dims:
        return values.reshape(len(rows), dims)
    sizes = [np.size(row) if row is not None else 0 for row in rows[key].to_pylist()]
    step = next((step for step, size in enumerate(sizes) if size != dims), 0)
    raise UserError(
        f"{name_of(layout, piece.entry)}, step {piece.start + step}: {key!r} has {sizes[step]} dims, "
        f"meta/info.json says {dims}; mend the file or leave the episode out."
    )


def recording_of(given: Settings, layout: Layout, piece: Piece, table: Any) -> Recording:
    """Returns the recording of a piece; images are read from the table later, if at all."""
    name, whole = name_of(layout, piece.entry), piece.stop - piece.start == piece.entry.length
    name += "" if whole else f" from step {piece.start} to {piece.stop - 1}"
    rows = table.slice(piece.start, piece.stop - piece.start + piece.observed)
    count = piece.stop - piece.start

    def column(key):
        return lerobot_meta.numbers(rows[key], np.float32)[:count]

    vector = functools.partial(_vectors, layout, piece, rows)
    task = rows["task_index"][0].as_py()
    why = f"{name} has task_index {task}, to which the metadata has no text"
    state = [np.zeros((len(rows), 0), np.float32), *map(vector, layout.state)]
    recording = Recording(
        name=name,
        instruction=settings.instruction(given, _task_text(layout, task), why),
        frames={camera: _frames(given, layout, piece, rows, key) for key, camera in layout.cameras.items()},
        state=np.concatenate(state, axis=1),
        actions=np.concatenate([vector(key)[:count] for key in layout.action], axis=1),
        success=outcome(layout.success, column, name),
        rewards=column(given.reward) if given.reward else None,
        dt=1.0 / layout.fps,
        first=piece.start,
        intervention=column(given.intervention) if given.intervention else None,
    )
    return turned(recording, given.turn)


def _frames(given: Settings, layout: Layout, piece: Piece, rows: Any, key: str) -> Frames:
    def where(step):
        return f"{name_of(layout, piece.entry)}, step {piece.start + step}, camera {layout.cameras[key]!r}"

    def stored(count: int) -> Iterator[bytes | np.ndarray]:
        if key in piece.entry.clips:
            clip = piece.entry.clips[key]
            times = clip.start_s + times_of(layout, rows, piece.start)[:count]
            try:
                yield from Clip(f"{layout.root}/{clip.path}", times, _tolerance_s(given, layout)).frames()
            except BadImage as error:
                raise UserError(f"{error}.") from error
        else:
            for image in rows[key].slice(0, count):
                yield lerobot_meta.image_file(image.as_py(), Path(layout.root))

    def read(count: int) -> Iterator[bytes]:
        resize, bgr = given.image_size is not None, layout.cameras[key] in given.bgr
        yield from images.encoded(stored(count), layout.size, resize, bgr, where)

    return Frames(len(rows), read)
