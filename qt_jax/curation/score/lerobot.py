"""Copies a LeRobot folder with the values of each step as columns; its videos are not written again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation import repack_lerobot
from qt_jax.curation.score import STEP_VALUES, ValuesOf
from qt_jax.data.lerobot import Folder
from qt_jax.data.lerobot_meta import Entry
from qt_jax.errors import UserError

FEATURE = {"dtype": "float32", "shape": [1], "names": None}


def check(folder: Folder, target: str) -> Path:
    """Returns where the copy goes; raises a UserError if something is there, or a step has such a value."""
    path = Path(target).expanduser().resolve()
    if path.exists():
        raise UserError(f"{path} exists; delete it or choose another --output.", topic="output-exists")
    if has := sorted(set(STEP_VALUES) & set(folder.meta.features)):
        raise UserError(f"{folder.path} has columns {has}; score the dataset that it was made of.")
    return path


def write(folder: Folder, values_of: ValuesOf, target: str, cache: str) -> Path:
    """Copies the folder to `target`; files without rows are hard links where the disk allows it.

    Nothing of a LeRobot folder lies in a bucket, so `cache` is not used.

    Raises:
        UserError: as `check`, or if a file is missing or damaged.

    """
    path, meta = check(folder, target), folder.meta
    work = path.with_name(f"{path.name}.incomplete_score")
    shutil.rmtree(work, ignore_errors=True)  # what an earlier attempt left
    shard_of = {place: number for number, places in enumerate(folder.places) for place in places.tolist()}
    place_of = {entry.number: place for place, entry in enumerate(meta.entries)}
    written: list[np.ndarray] = []

    def with_values(entry: Entry, rows: Any) -> Any:
        place, values = place_of[entry.number], np.full((len(STEP_VALUES), entry.length), np.nan, np.float32)
        if place in shard_of:  # the others are of splits that training does not read
            values = values_of(shard_of[place], place, entry.length)
        written.append(values)
        for name, of_rows in zip(STEP_VALUES, values):
            rows = rows.append_column(name, [of_rows])
        return rows.replace_schema_metadata(_with_features(rows.schema.metadata))

    files: dict[str, list[Entry]] = {}
    for entry in meta.entries:
        files.setdefault(entry.file, []).append(entry)
    for name, entries in files.items():
        repack_lerobot.copy_rows(meta.root, work, name, entries, with_values)
    for file in meta.root.rglob("*"):
        name = str(file.relative_to(meta.root))
        if file.is_file() and name not in files:
            _link(file, work / name)

    _add(work / "meta/info.json", "features", dict.fromkeys(STEP_VALUES, FEATURE))
    if (work / "meta/stats.json").exists():
        _add(work / "meta/stats.json", "", _statistics(np.concatenate(written, axis=1)))
    work.rename(path)
    return path


def _with_features(metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """Adds the columns to what Hugging Face's datasets wrote into the file, where they did."""
    if not metadata or b"huggingface" not in metadata:
        return metadata
    content = json.loads(metadata[b"huggingface"])
    content["info"]["features"] |= dict.fromkeys(STEP_VALUES, {"dtype": "float32", "_type": "Value"})
    return metadata | {b"huggingface": json.dumps(content).encode()}


def _link(file: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, copy)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, copy)


def _add(file: Path, section: str, entries: dict[str, Any]) -> None:
    content = json.loads(file.read_text())
    (content[section] if section else content).update(entries)
    file.unlink()  # it may be a link to the original
    file.write_text(json.dumps(content, indent=4))


def _statistics(values: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Returns the statistics of each value as LeRobot has those of a column; rows without it do not count."""
    found = {}
    for name, of_rows in zip(STEP_VALUES, values):
        known = of_rows[np.isfinite(of_rows)].astype(float)
        numbers = {"min": known.min(), "max": known.max(), "mean": known.mean(), "std": known.std()}
        found[name] = {key: [float(number)] for key, number in numbers.items()} | {"count": [len(known)]}
    return found
