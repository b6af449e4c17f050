"""LeRobot datasets: versions 2.0 and 2.1 (a file an episode) and 3.0 (many episodes a file), images in the parquet files or as video.

A frame holds an observation and the action taken there; nothing holds the observation after the last action, so the final action of
each episode is given up (see `recording`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data.convert import images
from qt_jax.data.convert.recording import (
    Episode,
    Recording,
    Settings,
    Source,
    action_spec,
    choose,
    finished,
    image_size,
    naming,
    outcome,
    success_key,
)
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec

STATE = "observation.state"


@dataclasses.dataclass(frozen=True)
class Clip:
    """Where one camera's frames of an episode are."""

    path: str
    start_s: float


@dataclasses.dataclass(frozen=True)
class Entry:
    """An episode as the metadata lists it. index: its rank, by which the dataset is ordered; number: LeRobot's own."""

    index: int
    number: int
    length: int
    file: str
    clips: dict[str, Clip]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a worker needs to read any episode of the folder. cameras: {key: name in our dataset}."""

    root: str
    fps: float
    cameras: dict[str, str]
    size: tuple[int, int]
    state: tuple[str, ...]
    success: str
    tasks: dict[int, str]
    low: np.ndarray
    high: np.ndarray


def open_source(settings: Settings) -> Source:
    root = Path(settings.input)
    info = _info(root)
    if settings.fps:
        raise UserError(f"--fps is {settings.fps:g}; leave it out, a LeRobot dataset says itself how fast it was recorded.")
    try:
        features, fps = info["features"], float(info["fps"])
        tasks, entries = (_version_3 if _version(info, root) == 3 else _version_2)(root, info)
    except KeyError as error:
        raise UserError(f"{root}/meta lacks {error}; expected the files of a LeRobot dataset, version 2.0 to 3.0.") from error
    if not entries:
        raise UserError(f"{root} holds no episode (meta/info.json lists 0).")
    known = {key: feature for key, feature in features.items() if feature["dtype"] in ("image", "video")}
    colour = {_short(key): key for key, feature in known.items() if _height_width_channels(feature)[2] == 3 and not _is_depth(feature)}
    vectors = {key: feature for key, feature in features.items() if feature["dtype"].startswith(("float", "int")) and key.startswith("obs")}
    if "action" not in features:
        raise UserError(f"{root} has features {sorted(features)}, expected 'action' among them.")
    chosen = choose("--cameras", settings.cameras, colour, sorted(colour), str(root))
    state = choose("--state", settings.state, vectors, [STATE] if STATE in vectors else [], str(root))
    sizes = {name: _height_width_channels(known[colour[name]])[:2] for name in chosen}
    dims = {key: int(np.prod(vectors[key]["shape"])) for key in state}
    description = ", ".join(f"{key}: {' '.join(_names(vectors[key]))}" for key in state)
    observation = ObservationSpec(tuple(chosen), image_size(settings, sizes, str(root)), sum(dims.values()), description)
    per_frame = sorted(key for key, feature in features.items() if list(feature["shape"]) == [1] and feature["dtype"] != "string")
    key = success_key(settings, per_frame, "next.success", str(root))
    cameras = {colour[name]: name for name in chosen}
    files = [list(group) for _, group in itertools.groupby(entries, lambda entry: entry.file)]
    low, high = _bounds(root, files)
    layout = Layout(str(root), fps, cameras, observation.image_size, tuple(state), key, tasks, low, high)
    action = action_spec(_names(features["action"]), low, high)
    return Source(
        files, len(entries), functools.partial(_read, settings, layout), action, observation, f"Converted from LeRobot, {root.name}"
    )


def _info(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / "meta/info.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{root} holds no meta/info.json; expected a LeRobot dataset, or give another --format.") from None
    except ValueError as error:
        raise UserError(f"{root}/meta/info.json does not parse ({error}); copy it again.") from error


def _version(info: dict[str, Any], root: Path) -> int:
    version = str(info.get("codebase_version", ""))
    if version.startswith("v2."):
        return 2
    if version.startswith("v3."):
        return 3
    raise UserError(
        f"{root}/meta/info.json says codebase_version {version!r}; expected v2.0, v2.1 or v3.0: convert it with LeRobot's own tool."
    )


def _version_2(root: Path, info: dict[str, Any]) -> tuple[dict[int, str], list[Entry]]:
    tasks = {line["task_index"]: line["task"] for line in _lines(root / "meta/tasks.jsonl")}
    episodes = sorted(_lines(root / "meta/episodes.jsonl"), key=lambda line: line["episode_index"])
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    entries = []
    for index, line in enumerate(episodes):
        number = line["episode_index"]
        place = {"episode_chunk": number // info["chunks_size"], "episode_index": number, "total_episodes": info.get("total_episodes")}
        clips = {key: Clip(info["video_path"].format(video_key=key, **place), 0.0) for key in videos}
        entries.append(Entry(index, number, line["length"], info["data_path"].format(**place), clips))
    return tasks, entries


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected it in a LeRobot dataset of version 2, copy it again.") from None
    except ValueError as error:
        raise UserError(f"{path} does not parse ({error}); copy it again.") from error


def _version_3(root: Path, info: dict[str, Any]) -> tuple[dict[int, str], list[Entry]]:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(root / "meta/tasks.parquet").to_pydict()
        text = next(key for key in ("task", "__index_level_0__") if key in table)  # a pandas index, named or not
        tasks = dict(zip(table["task_index"], table[text]))
        videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
        columns = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        columns += [f"videos/{key}/{field}" for key in videos for field in ("chunk_index", "file_index", "from_timestamp")]
        rows = [row for file in sorted(root.glob("meta/episodes/*/*.parquet")) for row in pq.read_table(file, columns=columns).to_pylist()]
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{root}/meta cannot be read ({type(error).__name__}: {line}); copy it again.") from error
    entries = []
    for index, row in enumerate(sorted(rows, key=lambda row: row["episode_index"])):
        place = lambda prefix, row=row: {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index")}
        clips = {
            key: Clip(info["video_path"].format(video_key=key, **place(f"videos/{key}")), row[f"videos/{key}/from_timestamp"])
            for key in videos
        }
        entries.append(Entry(index, row["episode_index"], row["length"], info["data_path"].format(**place("data")), clips))
    return tasks, entries


def _short(key: str) -> str:
    """The camera's own name: observation.images.front -> front."""
    return key.rsplit(".", 1)[-1]


def _height_width_channels(feature: dict[str, Any]) -> tuple[int, int, int]:
    """Which of the shape's numbers is which stands beside it; without that, LeRobot writes the height first."""
    names, shape = feature.get("names"), feature["shape"]
    if isinstance(names, list) and names[0].startswith("channel"):
        return shape[1], shape[2], shape[0]
    return tuple(shape)


def _is_depth(feature: dict[str, Any]) -> bool:
    infos = (feature.get("info") or {}) | (feature.get("video_info") or {})
    return bool(infos.get("is_depth_map") or infos.get("video.is_depth_map"))


def _names(feature: dict[str, Any]) -> list[str]:
    """Of the dims of a vector; LeRobot has a list, a dict of lists, or none."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [name for group in names.values() for name in (group if isinstance(group, list) else [group])]
    count = int(np.prod(feature["shape"]))
    return [str(name) for name in names] if names and len(set(map(str, names))) == count else [f"a{i}" for i in range(count)]


def _bounds(root: Path, files: list[list[Entry]]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest action of each dim: from the metadata, else from all files."""
    overall, each = root / "meta/stats.json", root / "meta/episodes_stats.jsonl"
    if overall.exists():
        stats = [json.loads(overall.read_text())]
    elif each.exists():
        stats = [line["stats"] for line in _lines(each)]
    else:
        stats = []
        for entries in files:
            path = root / entries[0].file
            actions = naming(str(path), lambda path=path: _vectors(_table(path, ["action"])["action"]))
            stats.append({"action": {"min": actions.min(axis=0), "max": actions.max(axis=0)}})
    low, high = (np.float32([entry["action"][bound] for entry in stats]) for bound in ("min", "max"))
    return low.min(axis=0), high.max(axis=0)


def _table(path: Path, columns: list[str]) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=columns)


def _vectors(column: Any) -> np.ndarray:
    """float32 [rows, dims] of a column of lists or of numbers."""
    import pyarrow as pa

    values = column.combine_chunks()
    while pa.types.is_nested(values.type):
        values = values.flatten()
    return np.asarray(values, np.float32).reshape(len(column), -1)


def _read(settings: Settings, layout: Layout, entries: list[Entry]) -> Iterator[tuple[int, Episode]]:
    yield from finished(_recordings(settings, layout, entries), settings.collector)


def _recordings(settings: Settings, layout: Layout, entries: list[Entry]) -> Iterator[tuple[int, Recording]]:
    file = f"{layout.root}/{entries[0].file}"
    stored = [key for key in layout.cameras if key not in entries[0].clips]
    keys = {"action", "task_index", "episode_index", *layout.state, *stored, settings.reward, layout.success} - {"", "all", "none"}
    tables = _episode_tables(file, sorted(keys))
    for entry in entries:
        name = f"{file}: episode {entry.number}"
        yield entry.index, naming(name, lambda entry=entry, name=name: _recording(settings, layout, entry, next(tables, None), name))


def _episode_tables(file: str, columns: list[str]) -> Iterator[Any]:
    """One table an episode, in the file's order, without holding the whole file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Any] = []
    for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=columns):
        numbers = batch["episode_index"].to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
        for start, end in zip(edges, edges[1:]):
            if parts and parts[0]["episode_index"][0].as_py() != numbers[start]:
                yield pa.Table.from_batches(parts)
                parts = []
            parts.append(batch.slice(start, end - start))
    if parts:
        yield pa.Table.from_batches(parts)


def _recording(settings: Settings, layout: Layout, entry: Entry, table: Any, name: str) -> Recording:
    found = None if table is None else (table["episode_index"][0].as_py(), len(table))
    if found != (entry.number, entry.length):
        raise UserError(f"{name} has (number, frames) {found}, the metadata says {(entry.number, entry.length)}; copy the dataset again.")
    actions = _vectors(table["action"])
    if (actions < layout.low - 1e-4).any() or (actions > layout.high + 1e-4).any():
        raise UserError(
            f"{name} has actions outside the least and greatest of the metadata's statistics; compute those again with LeRobot."
        )
    resize = settings.image_size is not None
    column = lambda key: _vectors(table[key])[:, 0]
    frames = {}
    for key, camera in layout.cameras.items():
        if key in entry.clips:
            clip = entry.clips[key]
            shown = images.video(f"{layout.root}/{clip.path}", clip.start_s, entry.length, layout.fps)
        else:
            shown = (_embedded(image, layout.root) for image in table[key].to_pylist())
        frames[camera] = [images.jpeg(frame, layout.size, resize) for frame in shown]
    return Recording(
        name=name,
        instruction=settings.instruction or _instruction(layout, table["task_index"][0].as_py(), name),
        images=frames,
        state=np.concatenate([_vectors(table[key]) for key in layout.state] or [np.zeros((entry.length, 0), np.float32)], axis=1),
        actions=actions,
        success=outcome(layout.success, column, name),
        rewards=column(settings.reward) if settings.reward else None,
        dt=1.0 / layout.fps,
    )


def _embedded(image: dict[str, Any], root: str) -> bytes:
    """A parquet file holds an image's bytes, or the path where they are."""
    return image["bytes"] if image["bytes"] is not None else (Path(root) / image["path"]).read_bytes()


def _instruction(layout: Layout, task: int, name: str) -> str:
    if not layout.tasks.get(task, "").strip():
        raise UserError(f"{name} has task_index {task}, to which the metadata has no text; give --instruction='open the drawer'.")
    return layout.tasks[task]
