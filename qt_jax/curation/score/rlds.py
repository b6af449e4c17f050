"""Copies an RLDS dataset with the values of each step, record for record, as ArrayRecord files."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath

from qt_jax import storage
from qt_jax.curation import repack
from qt_jax.curation.score import STEP_VALUES, ValuesOf
from qt_jax.data.records import Directory
from qt_jax.data.stored import BadRecord, BadShard
from qt_jax.errors import UserError


def check(directory: Directory, target: str) -> epath.Path:
    """Returns where the copy goes; raises a UserError if something is there, or a step has such a value."""
    path = storage.directory(target) / epath.Path(directory.path).name
    if path.exists():
        raise UserError(f"{path} exists; delete it or choose another --output.", topic="output-exists")
    if has := sorted(set(STEP_VALUES) & set(directory.features["steps"].feature)):
        raise UserError(f"{directory.path} has {has} in its steps; score the dataset that it was made of.")
    return path


def write(directory: Directory, values_of: ValuesOf, target: str, cache: str) -> epath.Path:
    """Copies the splits that training reads to `target`/VERSION; on a disk it gets its name last of all.

    Raises:
        UserError: as `check`, or if a record is damaged.

    """
    path = check(directory, target)
    original, work = epath.Path(directory.path), path.with_name(f"{path.name}.incomplete_score")
    if work.exists():  # what an earlier attempt left
        work.rmtree()
    work.mkdir(parents=True)
    for file in original.iterdir():  # label names, the action's bounds, whatever else describes the records
        if file.is_file() and file.name not in {shard.name for shard in directory.shards}:
            (work / file.name).write_bytes(file.read_bytes())

    info = json.loads(repack.array_record_info(original / repack.INFO))
    info["splits"] = [split for split in info["splits"] if split["name"] not in directory.unread]
    number = 0
    for split in info["splits"]:
        count, size = len(split["shardLengths"]), 0
        for place in range(count):
            copy = work / f"{info['name']}-{split['name']}.array_record-{place:05d}-of-{count:05d}"
            size += _write_shard(directory, number, values_of, copy, cache)
            number += 1
        split["numBytes"] = str(size)
    _features(directory).save_config(str(work))
    (work / repack.INFO).write_text(json.dumps(info, indent=2))
    work.rename(path)
    return path


def _write_shard(directory: Directory, number: int, values_of: ValuesOf, copy: epath.Path, cache: str) -> int:
    """Copies a file's records with their values; returns their bytes."""
    size = 0
    with repack.local_file(copy) as local:
        writer = ArrayRecordWriter(local, "group_size:1")
        try:
            for position, record in directory.scan(number, cache):
                if isinstance(record, BadRecord):
                    file = directory.shards[number].path
                    raise UserError(f"{file}: the record at {position} {record}; repair the dataset.")
                rows = len(jax.tree.leaves(directory.parse(record)["steps"])[0])
                content = _with_values(record, values_of(number, position, rows))
                size += len(content)
                writer.write(content)
        except BadShard as error:
            raise UserError(f"{directory.shards[number].path} {error}; repair the dataset.") from error
        finally:
            writer.close()
    return size


def _with_values(record: bytes, values: np.ndarray) -> bytes:
    """Adds the values of all rows, float32 [4, rows], to a record; its other bytes stay as they are."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)
    for name, of_rows in zip(STEP_VALUES, values):
        example.features.feature[f"steps/{name}"].float_list.value.extend(of_rows.tolist())
    return example.SerializeToString(deterministic=True)


def _features(directory: Directory) -> Any:
    """Returns the dataset's features with those of the values."""
    import tensorflow_datasets as tfds

    steps = dict(directory.features["steps"].feature)
    steps |= {name: tfds.features.Scalar(np.float32, doc=doc) for name, doc in STEP_VALUES.items()}
    return tfds.features.FeaturesDict(dict(directory.features) | {"steps": tfds.features.Dataset(steps)})
