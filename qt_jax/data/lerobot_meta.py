"""Reads a LeRobot dataset's metadata: episodes and their files, tasks, features.

Versions 2.0, 2.1 and 3.0 give the same `Metadata`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data import images
from qt_jax.data.names import short_names
from qt_jax.errors import UserError

STATES = ("observation.state", "state")
"""Keys of the state: LeRobot's own, and that of openpi's conversions."""
OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index", "next.done")
"""Columns that every dataset has; what they say is known otherwise."""

NOT_AS_WRITTEN = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""Errors that JSON of another form raises."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The video of one camera in an episode.

    Attributes:
        path: its file.
        start_s: where the episode begins in it, in seconds.
        stop_s: where it ends; None for a file that holds no other episode.
        file_stop_s: where the last episode of the file ends; None as above.
    """

    path: str
    start_s: float
    stop_s: float | None
    file_stop_s: float | None


@dataclasses.dataclass(frozen=True)
class Entry:
    """An episode as the metadata lists it.

    Attributes:
        number: LeRobot's own.
        length: steps.
        file: with its rows.
        clips: {camera: its video}; without the cameras whose images are in the file.
    """

    number: int
    length: int
    file: str
    clips: dict[str, Clip]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What the metadata says of a dataset.

    Attributes:
        root: the dataset's folder.
        info: what info.json holds.
        fps: steps a second.
        features: {key: the feature as info.json has it}.
        tasks: {task_index: instruction}.
        columns: of the episodes, by number: `episode_index`, `length`, and of version 3 where its files are.
        splits: {name: numbers of episodes}.
    """

    root: Path
    info: dict[str, Any]
    fps: float
    features: dict[str, Any]
    tasks: dict[int, str]
    columns: dict[str, np.ndarray]
    splits: dict[str, set[int]]

    def __len__(self) -> int:
        return len(self.columns["episode_index"])

    @functools.cached_property
    def version(self) -> int:
        """2 or 3."""
        return _version(self.info, self.root)

    @functools.cached_property
    def videos(self) -> list[str]:
        """Keys of the cameras that have videos."""
        return _videos(self.info)

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """All episodes, by number."""
        return [self.entry(place) for place in range(len(self))]

    def entry(self, place: int) -> Entry:
        """Returns the episode at a place among all, from 0."""
        row = {name: column[place].item() for name, column in self.columns.items()}
        number, videos = row["episode_index"], self.videos
        if self.version == 3:
            file = self.info["data_path"].format(**_place(row, "data"))
            clips = {key: self._shared_clip(key, row) for key in videos}
        else:
            chunk, total = number // self.info["chunks_size"], self.info.get("total_episodes")
            at = {"episode_chunk": chunk, "episode_index": number, "total_episodes": total}
            file = self.info["data_path"].format(**at)
            clips = {key: Clip(self._video(key, at), 0.0, None, None) for key in videos}
        return Entry(number, row["length"], file, clips)

    def _video(self, key: str, at: dict[str, Any]) -> str:
        return self.info["video_path"].format(video_key=key, **at)

    def _shared_clip(self, key: str, row: dict[str, Any]) -> Clip:
        at = _place(row, f"videos/{key}")
        start_s, stop_s = (row[f"videos/{key}/{edge}_timestamp"] for edge in ("from", "to"))
        file_stop_s = self._file_stops[key, at["chunk_index"], at["file_index"]]
        return Clip(self._video(key, at), start_s, stop_s, file_stop_s)

    @functools.cached_property
    def _file_stops(self) -> dict[tuple[str, int, int], float]:
        """Where the last episode of each video ends, {(camera, chunk, file): seconds}."""
        found: dict[tuple[str, int, int], float] = {}
        for key in self.videos:
            names = ("chunk_index", "file_index", "to_timestamp")
            columns = (self.columns[f"videos/{key}/{name}"].tolist() for name in names)
            for chunk, file, stop_s in zip(*columns):
                found[key, chunk, file] = max(stop_s, found.get((key, chunk, file), 0.0))
        return found


def undeclared(meta: Metadata) -> list[str]:
    """Lists the columns of the first Parquet file that info.json does not declare, and nobody reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(meta.root / meta.entry(0).file).names
    except (OSError, pa.ArrowException):  # what reads the rows says so
        return []
    return [name for name in columns if name not in meta.features and name not in OWN]


def read(root: Path) -> Metadata:
    """Reads the files in `root`/meta.

    Raises:
        UserError: if a file is missing, does not parse, or lacks what is needed.
    """
    info = _info(root)
    try:
        tasks, columns = (_version_3 if _version(info, root) == 3 else _version_2)(root, info)
        order = np.argsort(columns["episode_index"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
        splits = _splits(root, info, columns["episode_index"])
        found = Metadata(root, info, float(info["fps"]), info["features"], tasks, columns, splits)
        for place in range(min(1, len(found))):
            found.entry(place)  # raises for what is missing
    except KeyError as error:
        raise UserError(
            f"{root}/meta lacks {error}; expected the files of a LeRobot dataset, version 2.0 to 3.0."
        ) from error
    except NOT_AS_WRITTEN as error:
        raise UserError(
            f"{root}/meta is not as LeRobot writes it ({type(error).__name__}: {error}); copy it again."
        ) from error
    if not found.fps > 0:
        raise UserError(f"{root}/meta/info.json says {found.fps:g} fps, expected more than 0; correct it.")
    for what, listed in (("episodes", len(found)), ("frames", int(found.columns["length"].sum()))):
        if info.get(f"total_{what}", listed) not in (listed, None):
            raise UserError(
                f"{root}/meta lists {listed} {what}, its info.json says {info[f'total_{what}']}; copy the "
                f"dataset again, or correct total_{what} if what is listed is right."
            )
    if not len(found):
        raise UserError(f"{root} holds no episode; expected one or more in meta/episodes.")
    if found.version == 3:
        _refuse_overlaps(found)
    return found


def _refuse_overlaps(meta: Metadata) -> None:
    """Raises UserError where two episodes share frames of a video: one of them would show the other."""
    for key in meta.videos:
        chunk, file, start_s, stop_s = (
            meta.columns[f"videos/{key}/{name}"]
            for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        )
        order = np.lexsort((start_s, file, chunk))
        before, after = order[:-1], order[1:]
        same = (chunk[before] == chunk[after]) & (file[before] == file[after])
        shared = np.flatnonzero(same & (start_s[after] < stop_s[before] - 0.5 / meta.fps))
        if shared.size:
            first, second = before[shared[0]], after[shared[0]]
            episodes = meta.columns["episode_index"]
            raise UserError(
                f"{meta.root}/meta/episodes has the clips of {key!r} overlap: episode {episodes[first]} ends "
                f"at {stop_s[first]:.4g} s, episode {episodes[second]} begins at {start_s[second]:.4g} s of "
                "the same file; copy the dataset again, or make it again with LeRobot's own tool."
            )


def _info(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / "meta/info.json").read_text())
    except FileNotFoundError:
        raise UserError(
            f"{root} holds no meta/info.json; expected a LeRobot dataset, or give another --format."
        ) from None
    except ValueError as error:
        raise UserError(f"{root}/meta/info.json does not parse ({error}); copy it again.") from error


def _version(info: dict[str, Any], root: Path) -> int:
    version = str(info.get("codebase_version", ""))
    if version.startswith("v2."):
        return 2
    if version.startswith("v3."):
        return 3
    raise UserError(
        f"{root}/meta/info.json says codebase_version {version!r}; expected v2.0, v2.1 or v3.0: convert it "
        "with LeRobot's own tool."
    )


def _splits(root: Path, info: dict[str, Any], numbers: np.ndarray) -> dict[str, set[int]]:
    """Returns {name: numbers of episodes} of ranges such as "0:40", or of lists of numbers."""
    listed, found = set(numbers.tolist()), {}
    for name, value in (info.get("splits") or {}).items():
        if isinstance(value, list):
            found[name] = listed & set(value)
            continue
        try:
            start, end = (int(part or 0) for part in value.split(":"))
        except (AttributeError, ValueError):
            raise UserError(
                f"{root}/meta/info.json has the split {name}: {value!r}; expected a range such as '0:40'."
            ) from None
        if listed and end > max(listed) + 1:
            raise UserError(
                f"{root}/meta/info.json has the split {name}: {value!r}, the last episode is {max(listed)}; "
                "copy the dataset again, or correct the split."
            )
        found[name] = listed & set(range(start, end))
    return found


def _version_2(root: Path, info: dict[str, Any]) -> tuple[dict[int, str], dict[str, np.ndarray]]:
    tasks = {line["task_index"]: line["task"] for line in _lines(root / "meta/tasks.jsonl")}
    lines = _lines(root / "meta/episodes.jsonl")
    return tasks, {
        key: np.asarray([line[key] for line in lines], np.int64) for key in ("episode_index", "length")
    }


def _videos(info: dict[str, Any]) -> list[str]:
    return [key for key, feature in info["features"].items() if feature["dtype"] == "video"]


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; expected it in a LeRobot dataset of version 2, copy it again."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} does not parse ({error}); copy it again.") from error


def _version_3(root: Path, info: dict[str, Any]) -> tuple[dict[int, str], dict[str, np.ndarray]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    fields = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns += [f"videos/{key}/{field}" for key in _videos(info) for field in fields]
    try:
        table = pq.read_table(root / "meta/tasks.parquet").to_pydict()
        text = "task" if "task" in table else "__index_level_0__"  # a pandas index, named or not
        tasks = dict(zip(table["task_index"], table[text]))
        files = [pq.read_table(f, columns=columns) for f in sorted(root.glob("meta/episodes/*/*.parquet"))]
        rows = (
            pa.concat_tables(files) if files else pa.table({name: pa.array([], "int64") for name in columns})
        )
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{root}/meta cannot be read ({type(error).__name__}: {line}); copy it again."
        ) from error
    return tasks, {
        name: np.asarray(rows[name], np.float64 if name.endswith("_timestamp") else np.int64)
        for name in columns
    }


def _place(row: dict[str, Any], prefix: str) -> dict[str, int]:
    return {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}


def is_image(feature: dict[str, Any]) -> bool:
    """Returns whether it is a camera, stored as images or as video."""
    return feature["dtype"] in ("image", "video")


def is_vector(key: str, feature: dict[str, Any]) -> bool:
    """Returns whether it has numbers that may be an action or a part of the state."""
    numbers = feature["dtype"].startswith(("float", "int", "uint", "bool"))
    return numbers and key not in OWN and not key.startswith("next.")


def is_number(feature: dict[str, Any]) -> bool:
    """Returns whether it has one number a row."""
    return list(feature["shape"]) == [1] and feature["dtype"] != "string"


def cameras(features: dict[str, Any]) -> dict[str, str]:
    """Returns {camera: key} of all images, by the last parts of their keys."""
    return short_names([key for key in features if is_image(features[key])], ".", reserved="state")


def height_width_channels(feature: dict[str, Any]) -> tuple[int, int, int]:
    """Returns the size of a camera's images.

    A feature names the dims of its shape; without the names, the number of channels tells them apart.
    """
    names, shape = feature.get("names"), tuple(feature["shape"])
    if len(shape) == 3 and isinstance(names, list) and names:
        first = str(names[0]).lower().startswith("c")
        return (*shape[1:], shape[0]) if first else shape
    if len(shape) not in (2, 3):
        return 0, 0, 0
    size, count, _ = images.channels(shape)
    return (*size, count)


def why_unusable(key: str, feature: dict[str, Any]) -> str:
    """Returns why a camera cannot be used; empty where it can."""
    infos = (feature.get("info") or {}) | (feature.get("video_info") or {})
    count = height_width_channels(feature)[2]
    marked = infos.get("is_depth_map") or infos.get("video.is_depth_map")
    if marked or (images.DEPTH.search(key) and count != 3):
        return "depth"
    return "" if count in (1, 3, 4) else f"of shape {feature['shape']}, expected 1, 3 or 4 channels"


def names(feature: dict[str, Any], letter: str = "a") -> list[str]:
    """Returns the names of a vector's dims: LeRobot's list or dict of lists, or else a0, a1, ..."""
    found = feature.get("names")
    if isinstance(found, dict):
        found = [name for group in found.values() for name in (group if isinstance(group, list) else [group])]
    count = int(np.prod(feature["shape"]))
    if found and len(set(map(str, found))) == count:
        return [str(name) for name in found]
    return [f"{letter}{i}" for i in range(count)]


def joined_names(features: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """Returns the names of the dims of vectors that are joined; with their keys where two have one name."""
    every = [(key, name) for key in keys for name in names(features[key])]
    short = [name for _, name in every]
    return short if len(set(short)) == len(short) else [f"{key}.{name}" for key, name in every]


def numbers(column: Any, dtype: type | None = None) -> np.ndarray:
    """Flattens a column of lists or of numbers; a null is NaN, a null list is left out.

    Args:
        column: of Arrow, in chunks.
        dtype: of the result; None: the column's own.
    """
    import pyarrow as pa

    values = column.combine_chunks()
    while pa.types.is_nested(values.type):
        values = values.flatten()
    return np.asarray(values, dtype)


def image_file(image: dict[str, Any], root: Path) -> bytes:
    """Returns an image's file: a Parquet file holds its bytes, or the path where they are."""
    return image["bytes"] if image["bytes"] is not None else (root / image["path"]).read_bytes()
