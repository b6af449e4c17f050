"""The serialised episodes of an RLDS directory, TFRecord or ArrayRecord, read without TensorFlow.

They are scanned in order or read one by one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shutil
import struct
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import google_crc32c
from etils import epath

from qt_jax import storage
from qt_jax.data.stored import VALIDATION, BadRecord, BadShard, Shard, Stored
from qt_jax.errors import UserError, first_line


@dataclasses.dataclass(frozen=True)
class Directory(Stored):
    """An opened RLDS version directory.

    features: TFDS features, which parse a record. `metadata` is what metadata.json holds.
    """

    features: Any

    def scan(self, number: int, cache: str) -> Iterator[tuple[int, bytes | BadRecord]]:
        """As in `Stored`."""
        return scan(self.shards[number], cache)

    def read(self, number: int, position: int, size: int, cache: str) -> bytes:
        """As in `Stored`."""
        return read(self.shards[number], position, size, cache)

    def layout(self) -> bytes:
        """As in `Stored`."""
        return (storage.directory(self.path) / "features.json").read_bytes()

    @property
    def encoder(self) -> str | None:
        """As in `Stored`: the features' documentation names it."""
        own = "instruction_embedding" in self.features
        return self.features["instruction_embedding"].doc.desc if own else None

    def parse(self, record: bytes) -> dict[str, Any]:
        """Parses a record as a nested dict; `steps` holds a stacked array for each key, images encoded.

        Raises:
            BadRecord: if it does not parse.

        """
        import tensorflow_datasets as tfds

        decoders = {"steps": tfds.decode.SkipDecoding()}
        try:
            return self.features.deserialize_example_np(record, decoders=decoders)
        except Exception as error:
            raise BadRecord(f"does not parse ({type(error).__name__})") from error


def open_directory(path: str) -> Directory:
    """Opens the newest version below `path`, or `path` itself if it is a version directory.

    Raises:
        UserError: if there is no RLDS dataset with a `train` split, or it cannot be reached.

    """
    import tensorflow_datasets as tfds

    directory = storage.directory(path)
    try:
        if (directory / "dataset_info.json").exists():
            newest = directory
        else:
            found = [p for p in directory.glob("*.*.*") if p.is_dir()]
            versions = [p for p in found if tfds.core.Version.is_valid(p.name)]
            newest = max(versions, key=lambda p: tfds.core.Version(p.name), default=None)
    except Exception as error:  # a bucket's own: no credentials, no such bucket, no network
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {str(error)[:200]}); mend the access."
        ) from error
    if newest is None:
        raise UserError(
            f"{path} holds no RLDS dataset (no VERSION directory) and is no LeRobot folder on a disk (no "
            "meta/info.json); correct the path, or run `python -m qt_jax collect` or `convert` first."
        )

    try:
        info = tfds.builder_from_directory(str(newest)).info
    except Exception as error:
        raise UserError(
            f"{newest} has no readable metadata ({type(error).__name__}); collect it again."
        ) from error
    if "train" not in info.splits:
        raise UserError(f"{newest} has splits {sorted(info.splits)}, expected 'train'; collect it again.")
    if "steps" not in info.features:
        raise UserError(f"{newest} has features {sorted(info.features)}, expected RLDS' 'steps'.")

    chosen = ["train", *(name for name in VALIDATION if name in info.splits)]
    shards = tuple(
        _shard(newest, info, name, file, examples)
        for name in chosen
        for file, examples in zip(info.splits[name].filepaths, info.splits[name].shard_lengths)
    )
    unread = {name: split.num_examples for name, split in info.splits.items() if name not in chosen}
    return Directory(str(newest), shards, unread, dict(info.metadata or {}), info.features)


def _shard(directory: epath.Path, info: Any, split: str, file: Any, examples: int) -> Shard:
    """Looks at a file of the dataset; raises a UserError if it is missing."""
    path = epath.Path(file)
    try:
        stat = path.stat()
    except Exception as error:
        raise UserError(
            f"{directory} lacks {path.name} ({type(error).__name__}); copy or collect it again."
        ) from error
    # Of a local file in fractions of a second: epath has whole ones, in which a file may be written twice.
    modified = float(stat.mtime) if "://" in str(path) else os.stat(path).st_mtime
    return Shard(str(path), info.file_format.value, stat.length, modified, examples, split)


# TFRecord's framing: length (8 bytes), its checksum (4), the record, its checksum (4).
_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scan(shard: Shard, cache: str) -> Iterator[tuple[int, bytes | BadRecord]]:
    """Yields (position, record) of all records in order; a BadRecord stands for one that is damaged.

    Args:
        shard: the file.
        cache: directory for copies of ArrayRecord files that lie in a bucket.

    Raises:
        BadShard: if the file ends too early, or cannot be read from some point on.
        UserError: if the file cannot be opened, which is not a damage of it.

    """
    if shard.file_format == "array_record":
        yield from _scan_array_record(shard, cache)
        return
    try:
        opened = epath.Path(shard.path).open("rb")
    except OSError as error:
        raise UserError(
            f"{shard.path} cannot be opened ({type(error).__name__}: {error.strerror}); mend the access."
        ) from error
    with opened as file:
        for number in range(shard.examples):
            position = file.tell()
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                raise BadShard(f"ends after {number} of {shard.examples} records")
            length, checksum = _HEADER.unpack(header)
            if _masked_crc(header[:8]) != checksum:
                raise BadShard(
                    f"has a damaged header at byte {position}, record {number} of {shard.examples}"
                )
            record, footer = file.read(length), file.read(_FOOTER.size)
            if len(footer) < _FOOTER.size:
                raise BadShard(f"ends within record {number} of {shard.examples}")
            damaged = _masked_crc(record) != _FOOTER.unpack(footer)[0]
            yield position, BadRecord("has a wrong checksum") if damaged else record


def _scan_array_record(shard: Shard, cache: str) -> Iterator[tuple[int, bytes | BadRecord]]:
    try:
        source = _array_record(shard, cache)
        count = len(source)
    except Exception as error:
        raise BadShard(f"cannot be read ({first_line(error)})") from error
    if count != shard.examples:
        raise BadShard(f"holds {count} of {shard.examples} records")
    for number in range(count):
        try:
            yield number, source[number]
        except Exception as error:
            yield number, BadRecord(f"cannot be read ({first_line(error)})")


def read(shard: Shard, position: int, size: int, cache: str) -> bytes:
    """Reads one record of `size` bytes at a position that `scan` gave; `cache` as in `scan`.

    Raises:
        BadRecord: if it is damaged.

    """
    if shard.file_format == "array_record":
        try:
            return _array_record(shard, cache)[position]
        except Exception as error:
            raise BadRecord(f"cannot be read ({first_line(error)})") from error
    start, length = position + _HEADER.size, size + _FOOTER.size
    if "://" in shard.path:
        data = _bucket(shard.path.partition("://")[0]).cat_file(shard.path, start=start, end=start + length)
    else:
        with open(shard.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, start)
    record, footer = data[:size], data[size:]
    if len(footer) < _FOOTER.size or _masked_crc(record) != _FOOTER.unpack(footer)[0]:
        raise BadRecord("has a wrong checksum")
    return record


@functools.cache
def _bucket(protocol: str) -> Any:
    return fsspec.filesystem(protocol)


@functools.lru_cache(maxsize=512)  # each is an open file, of which a process may usually have 1,024
def _array_record(shard: Shard, cache: str) -> Any:
    import grain

    return grain.sources.ArrayRecordDataSource([_local(shard, cache)])


def _local(shard: Shard, cache: str) -> str:
    """Returns the path of a local copy of the file, since ArrayRecord's reader opens local files alone.

    A file of a bucket is copied to `cache` once.
    """
    if "://" not in shard.path:
        return shard.path
    if "://" in cache:
        raise UserError(
            f"config.data.cache is {cache}; ArrayRecord files of a bucket are copied there, so give a local "
            "directory."
        )

    name = hashlib.sha256(f"{shard.path} {shard.size} {shard.modified}".encode()).hexdigest()[:16]
    copy = storage.directory(cache) / "shards" / f"{name}-{shard.name}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}")
        with part.open("wb") as local, epath.Path(shard.path).open("rb") as remote:
            shutil.copyfileobj(remote, local, 16 * 2**20)
        part.replace(copy)
    return str(copy)
