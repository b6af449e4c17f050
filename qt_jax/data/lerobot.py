"""A LeRobot folder, version 2 (a Parquet file an episode) or 3 (many episodes a file), read where it lies.

A record is the rows of an episode, as the bytes of an Arrow stream. Images stay encoded; frames of videos are
`Clip`s, which are decoded when a segment needs them. `lerobot_spec` says what the columns mean.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data import lerobot_meta, video
from qt_jax.data.lerobot_meta import Entry, Metadata
from qt_jax.data.stored import VALIDATION, BadRecord, Shard, Stored
from qt_jax.data.video import Clip
from qt_jax.errors import UserError

TOLERANCE = 0.1
"""Share of a step by which a timestamp or a video's frame may be off."""
_INDEX = {"dtype": "int64", "shape": [1]}
"""The feature `task_index`, which is read even where info.json does not list it."""


def is_folder(path: str) -> bool:
    """Returns whether the directory `path` of a disk holds a LeRobot dataset."""
    return "://" not in path and (Path(path).expanduser() / "meta/info.json").exists()


@dataclasses.dataclass(frozen=True)
class Folder(Stored):
    """An opened LeRobot dataset. A shard is a Parquet file, or a folder of files that hold one episode each.

    meta: of the dataset; places: of each shard, those of its episodes in `meta`.
    """

    meta: Metadata
    places: tuple[np.ndarray, ...]

    def scan(self, number: int, cache: str) -> Iterator[tuple[int, bytes | BadRecord]]:
        """As in `Stored`; a position is an episode's place in the metadata."""
        for place in self.places[number].tolist():
            try:
                check_videos(self.meta.root, self.meta.entry(place), self.meta.fps)
                yield place, self._record(place)
            except BadRecord as error:
                yield place, error

    def read(self, number: int, position: int, size: int, cache: str) -> bytes:
        """As in `Stored`."""
        return self._record(position)

    def parse(self, record: bytes) -> dict[str, Any]:
        """Returns the columns of an episode of T rows.

        `steps` has by LeRobot's keys arrays [T, ...] of numbers ([T] where info.json says one number), lists
        of T encoded images, and clips of T frames; `tasks` the T instructions, "" where there is none;
        `episode_index` LeRobot's own number.

        Raises:
            BadRecord: for a column that is missing or not as info.json says, or timestamps that jump.

        """
        import pyarrow as pa

        table = pa.ipc.open_stream(record).read_all()
        number = table["episode_index"][0].as_py()
        entry = self.meta.entry(int(np.searchsorted(self.meta.columns["episode_index"], number)))
        steps: dict[str, Any] = {}
        for key, feature in ({"task_index": _INDEX} | self.meta.features).items():
            if key in entry.clips:
                continue
            if key not in table.column_names:
                raise BadRecord(f"has no column {key}, expected as in meta/info.json; copy it again")
            steps[key] = _values(table[key], key, feature, self.meta.root)

        times = _times(steps, len(table), self.meta.fps)
        for key, clip in entry.clips.items():
            path, tolerance_s = str(self.meta.root / clip.path), TOLERANCE / self.meta.fps
            steps[key] = Clip(path, clip.start_s + times, tolerance_s)
        tasks = [str(self.meta.tasks.get(task) or "").strip() for task in steps["task_index"].tolist()]
        return {"steps": steps, "tasks": tasks, "episode_index": number}

    def layout(self) -> bytes:
        """As in `Stored`."""
        info = {key: self.meta.info.get(key) for key in ("fps", "features", "data_path", "video_path")}
        return json.dumps([info, sorted(self.meta.tasks.items())]).encode()

    def listed(self, number: int) -> str:
        """As in `Stored`: the rows of the shard's episodes in the metadata."""
        places = self.places[number]
        digest = hashlib.sha256(places.tobytes())
        for name, column in self.meta.columns.items():
            digest.update(name.encode() + column[places].tobytes())
        return digest.hexdigest()

    def lies(self, number: int, place: int, camera: str = "") -> tuple[str, int]:
        """As in `Stored`; the episode's number is LeRobot's own."""
        entry = self.meta.entry(int(self.places[number][place]))
        clip = entry.clips.get(lerobot_meta.cameras(self.meta.features).get(camera, camera))
        return clip.path if clip else entry.file, entry.number

    def doubts(self, number: int, place: int) -> list[str]:
        """As in `Stored`."""
        entry = self.meta.entry(int(self.places[number][place]))
        end_s = (entry.length - 1) / self.meta.fps
        longer = longer_videos(self.meta.root, entry, end_s, self.meta.fps)
        return [f"the video of {key!r} {text}" for key, text in longer.items()]

    def _record(self, place: int) -> bytes:
        return _bytes(rows(self.meta.root, self.meta.entry(place)))


def open_folder(path: str) -> Folder:
    """Opens the LeRobot dataset in the directory `path`.

    Raises:
        UserError: if it cannot be read, has a version that is not known, or splits without a `train`.

    """
    root = Path(path).expanduser().resolve()
    meta = lerobot_meta.read(root)
    numbers = meta.columns["episode_index"]
    splits = {name: np.isin(numbers, sorted(listed)) for name, listed in meta.splits.items() if listed}
    splits = splits or {"train": np.full(len(meta), True)}
    if "train" not in splits:
        raise UserError(f"{root} has splits {sorted(splits)}, expected 'train'; correct its meta/info.json.")
    chosen = ["train", *(name for name in VALIDATION if name in splits)]
    twice = [name for name in chosen[1:] if np.any(splits[name] & splits["train"])]
    if twice:
        raise UserError(
            f"{root}/meta/info.json has episodes both in {twice[0]!r} and in 'train'; correct it."
        )

    unread = {name: int(members.sum()) for name, members in splits.items() if name not in chosen}
    if rest := int((~np.any(list(splits.values()), axis=0)).sum()):
        unread["(none)"] = rest
    shards, places, seen = [], [], set[str]()
    for name in chosen:
        for file, members in _files(meta, np.flatnonzero(splits[name])).items():
            shards.append(_shard(root / file, name, [entry for _, entry in members], meta.root, seen))
            places.append(np.asarray([place for place, _ in members]))
    return Folder(str(root), tuple(shards), unread, {}, meta, tuple(places))


def _files(meta: Metadata, chosen: np.ndarray) -> dict[str, list[tuple[int, Entry]]]:
    """Returns (place, episode) of each file, or of each folder of files of one episode."""
    groups: dict[str, list[tuple[int, Entry]]] = {}
    for place in chosen.tolist():
        entry = meta.entry(place)
        groups.setdefault(entry.file if meta.version == 3 else os.path.dirname(entry.file), []).append(
            (place, entry)
        )
    return groups


def _shard(path: Path, split: str, entries: list[Entry], root: Path, seen: set[str]) -> Shard:
    """Looks at the files of some episodes; one that is missing is found as damage of its episodes.

    The videos count too, so that an index is made again when one is added, changed or lost. The size of one
    that shards share is counted once: `seen` are the files of other shards, and is added to.
    """
    names = {
        name for entry in entries for name in (entry.file, *(clip.path for clip in entry.clips.values()))
    }
    size, modified = 0, 0.0
    for name in sorted(names):
        try:
            stat = os.stat(root / name)
        except OSError:
            continue
        size += 0 if name in seen else stat.st_size
        modified = max(modified, stat.st_mtime)
    seen |= names
    return Shard(str(path), "parquet", size, modified, len(entries), split)


def check_videos(root: Path, entry: Entry, fps: float, cameras: Container[str] | None = None) -> None:
    """Checks that each video can be opened, and that it, or the episode's part of it, has all the frames.

    Where a part had not, the episode's last rows would show the next episode.

    Args:
        root: of the dataset.
        entry: the episode.
        fps: rows a second.
        cameras: keys of those that are used; None for all.

    Raises:
        BadRecord: if one is missing, cannot be opened or is too short.

    """
    for key, clip in entry.clips.items():
        if cameras is not None and key not in cameras:
            continue
        try:
            modified = os.stat(root / clip.path).st_mtime_ns
        except FileNotFoundError:
            raise BadRecord(f"its video {clip.path} is missing; copy the dataset again") from None
        file_s = _length_s(str(root / clip.path), modified)
        rows_s = f"{entry.length} rows at {fps:g} fps last {entry.length / fps:.4g} s"
        if clip.stop_s is None or clip.file_stop_s is None:
            if file_s < (entry.length - 1.5) / fps:
                raise BadRecord(f"its video {clip.path} lasts {file_s:.4g} s, {rows_s}; copy the file again")
            continue
        lasts_s = clip.stop_s - clip.start_s
        if lasts_s < (entry.length - 0.5) / fps:
            raise BadRecord(
                f"its part of the video {clip.path} lasts {lasts_s:.4g} s, {rows_s}; leave the episode out"
            )
        if file_s < clip.file_stop_s - 1.5 / fps:
            raise BadRecord(
                f"the video {clip.path} ends at {file_s:.4g} s, its last episode at {clip.file_stop_s:.4g} "
                "s: frames are missing somewhere in it; copy the file again"
            )


@functools.lru_cache(maxsize=256)
def _length_s(path: str, modified: int) -> float:
    """Returns `video.length_s`; raises BadRecord for a file that cannot be opened."""
    import av

    try:
        return video.length_s(path)
    except (OSError, IndexError, av.FFmpegError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise BadRecord(f"its video {path} cannot be opened ({why}); copy the file again") from error


def longer_videos(root: Path, entry: Entry, end_s: float, fps: float) -> dict[str, str]:
    """Says which videos go on after an episode's last row, by more than a frame.

    Args:
        root: of the dataset.
        entry: the episode, whose videos can be opened.
        end_s: when its last row is, in seconds from its start.
        fps: rows a second.

    """
    found = {}
    for key, clip in entry.clips.items():
        if clip.stop_s is None:
            length_s = video.length_s(str(root / clip.path))
        else:
            length_s = clip.stop_s - clip.start_s
        if length_s > end_s + 2.5 / fps:
            found[key] = f"lasts {length_s:.4g} s, the rows end at {end_s:.4g} s; the rest is not used"
    return found


def rows(root: Path, entry: Entry) -> Any:
    """Returns the rows of an episode as a table of Arrow.

    Raises:
        BadRecord: if the file is missing or damaged, or does not hold the episode as the metadata says.

    """
    import pyarrow as pa

    file, number = str(root / entry.file), entry.number
    try:
        stat = os.stat(file)
        version = (stat.st_mtime_ns, stat.st_size)
        edges, spans = _spans(file, version)
        if number not in spans:
            raise BadRecord("is not there, the metadata lists it; copy the dataset again")
        start, stop = spans[number]
        if stop - start != entry.length:
            raise BadRecord(
                f"has {stop - start} rows, the metadata says {entry.length}; copy the dataset again"
            )
        first, last = np.searchsorted(edges, (start, stop - 1), side="right") - 1
        table = pa.concat_tables([_row_group(file, version, group) for group in range(first, last + 1)])
        return table.slice(start - edges[first], stop - start)
    except FileNotFoundError as error:
        raise BadRecord(f"its file {file} is missing; copy the dataset again") from error
    except (OSError, pa.ArrowException, KeyError) as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise BadRecord(f"cannot be read ({type(error).__name__}: {line}); copy {file} again") from error


@functools.lru_cache(maxsize=256)
def _spans(file: str, version: tuple) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Returns the first row of each row group, and {episode: its first row, the row after its last one}.

    version: of the file, so that another one is read again.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as content:
        counts = [content.metadata.row_group(i).num_rows for i in range(content.num_row_groups)]
        numbers = content.read(columns=["episode_index"], use_threads=False)["episode_index"].to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    spans: dict[int, tuple[int, int]] = {}
    for start, stop in zip(edges, edges[1:]):
        if stop > start:
            spans.setdefault(int(numbers[start]), (start, stop))
    return np.cumsum([0, *counts])[:-1], spans


@functools.lru_cache(maxsize=2)
def _row_group(file: str, version: tuple, group: int) -> Any:
    """Returns a row group as a table; two are kept, for the episodes that share one."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as content:
        return content.read_row_group(group, use_threads=False).replace_schema_metadata()


def _bytes(table: Any) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def _values(column: Any, key: str, feature: dict[str, Any], root: Path) -> Any:
    """Returns a column as numbers [T, ...], as T encoded images, or as T other values."""
    if lerobot_meta.is_image(feature):
        return [_image(image, key, root, step) for step, image in enumerate(column.to_pylist())]
    if feature["dtype"] == "string":
        return column.to_pylist()
    shape = () if list(feature["shape"]) == [1] else tuple(feature["shape"])
    values = lerobot_meta.numbers(column)
    if values.size == len(column) * int(np.prod(shape)):
        return values.reshape(len(column), *shape)
    sizes = [np.size(row) if row is not None else 0 for row in column.to_pylist()]
    step = next((step for step, size in enumerate(sizes) if size != np.prod(shape)), 0)
    raise BadRecord(f"{key!r} has {sizes[step]} dims, meta/info.json says {int(np.prod(shape))}", step)


def _image(image: Any, key: str, root: Path, step: int) -> bytes:
    try:
        return lerobot_meta.image_file(image, root)
    except (OSError, TypeError, KeyError) as error:
        raise BadRecord(f"{key!r} holds no image; copy the dataset again", step) from error


def _times(steps: dict[str, Any], count: int, fps: float) -> np.ndarray:
    """Returns the seconds of each row from the start of the episode.

    Raises:
        BadRecord: if they do not go on by a step from row to row.

    """
    if "timestamp" not in steps:
        return np.arange(count) / fps
    times = np.asarray(steps["timestamp"], np.float64)
    off = np.flatnonzero(~(np.abs(np.diff(times) - 1.0 / fps) <= TOLERANCE / fps))
    if not np.isfinite(times[0]):
        raise BadRecord("its timestamp is no number; leave the episode out", 0)
    if off.size == count - 1 > 0:
        apart = float(np.median(np.diff(times)))
        raise BadRecord(
            f"its rows are {apart:.4g} s apart, meta/info.json says {fps:g} fps; correct that file: "
            f"{1 / apart if apart > 0 else np.nan:.4g} fps"
        )
    if off.size:
        step = int(off[0]) + 1
        raise BadRecord(
            f"its timestamp is {times[step]:.4g} s, {times[step] - times[step - 1]:.4g} s after the one "
            f"before, expected {1.0 / fps:.4g} s; `convert --cut=gap` makes two episodes of it",
            step,
        )
    return times
