"""Reads a LeRobot dataset's metadata: episodes and their files, tasks, features.

Versions 2.0, 2.1 and 3.0 give the same `Metadata`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation.convert import images
from qt_jax.errors import UserError

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
        alone: whether it holds no other episode.
    """

    path: str
    start_s: float
    alone: bool


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
        fps: steps a second.
        features: {key: the feature as info.json has it}.
        tasks: {task_index: instruction}.
        entries: the episodes, by number.
        splits: {name: numbers of episodes}.
    """

    root: Path
    fps: float
    features: dict[str, Any]
    tasks: dict[int, str]
    entries: list[Entry]
    splits: dict[str, set[int]]


def read(root: Path) -> Metadata:
    """Reads the files in `root`/meta.

    Raises:
        UserError: if a file is missing, does not parse, or lacks what is needed.
    """
    info = _info(root)
    try:
        tasks, entries = (_version_3 if _version(info, root) == 3 else _version_2)(root, info)
        splits = _splits(root, info, entries)
        found = Metadata(root, float(info["fps"]), info["features"], tasks, entries, splits)
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
    if not entries:
        raise UserError(f"{root} holds no episode (meta/info.json lists 0).")
    if len(entries) < (listed := info.get("total_episodes") or 0):
        raise UserError(
            f"{root}/meta lists {len(entries)} episodes, its info.json says {listed}; copy the dataset again."
        )
    return found


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


def _splits(root: Path, info: dict[str, Any], entries: list[Entry]) -> dict[str, set[int]]:
    """Returns {name: numbers of episodes} of ranges such as "0:40", or of lists of numbers."""
    numbers, found = {entry.number for entry in entries}, {}
    for name, value in (info.get("splits") or {}).items():
        if isinstance(value, list):
            found[name] = numbers & set(value)
            continue
        try:
            start, end = (int(part or 0) for part in value.split(":"))
        except (AttributeError, ValueError):
            raise UserError(
                f"{root}/meta/info.json has the split {name}: {value!r}; expected a range such as '0:40'."
            ) from None
        found[name] = numbers & set(range(start, end))
    return found


def _version_2(root: Path, info: dict[str, Any]) -> tuple[dict[int, str], list[Entry]]:
    tasks = {line["task_index"]: line["task"] for line in _lines(root / "meta/tasks.jsonl")}
    entries = []
    for line in sorted(_lines(root / "meta/episodes.jsonl"), key=lambda line: line["episode_index"]):
        number, total = line["episode_index"], info.get("total_episodes")
        chunk = number // info["chunks_size"]
        place = {"episode_chunk": chunk, "episode_index": number, "total_episodes": total}
        paths = {key: info["video_path"].format(video_key=key, **place) for key in _videos(info)}
        clips = {key: Clip(path, 0.0, True) for key, path in paths.items()}
        entries.append(Entry(number, line["length"], info["data_path"].format(**place), clips))
    return tasks, entries


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


def _version_3(root: Path, info: dict[str, Any]) -> tuple[dict[int, str], list[Entry]]:
    import pyarrow.parquet as pq

    videos = _videos(info)
    try:
        table = pq.read_table(root / "meta/tasks.parquet").to_pydict()
        text = "task" if "task" in table else "__index_level_0__"  # a pandas index, named or not
        tasks = dict(zip(table["task_index"], table[text]))

        columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        fields = ("chunk_index", "file_index", "from_timestamp")
        columns += [f"videos/{key}/{field}" for key in videos for field in fields]
        rows = [
            row
            for file in sorted(root.glob("meta/episodes/*/*.parquet"))
            for row in pq.read_table(file, columns=columns).to_pylist()
        ]
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{root}/meta cannot be read ({type(error).__name__}: {line}); copy it again."
        ) from error

    entries = []
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        clips = {}
        for key in videos:
            path = info["video_path"].format(video_key=key, **_place(row, f"videos/{key}"))
            clips[key] = Clip(path, row[f"videos/{key}/from_timestamp"], False)
        file = info["data_path"].format(**_place(row, "data"))
        entries.append(Entry(row["episode_index"], row["length"], file, clips))
    return tasks, entries


def _place(row: dict[str, Any], prefix: str) -> dict[str, int]:
    return {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}


def is_image(feature: dict[str, Any]) -> bool:
    """Returns whether it is a camera, stored as images or as video."""
    return feature["dtype"] in ("image", "video")


def is_vector(key: str, feature: dict[str, Any]) -> bool:
    """Returns whether it has numbers that may be an action or a part of the state."""
    numbers = feature["dtype"].startswith(("float", "int", "uint", "bool"))
    return numbers and key not in OWN and not key.startswith("next.")


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
