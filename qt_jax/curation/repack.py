"""Copies a TFDS dataset from TFRecord to ArrayRecord files, record for record, without TensorFlow.

Nothing is decoded, so any dataset will do. Each file becomes one file. The metadata is written last, and on
local disk the directory gets its name last of all: a killed repack leaves nothing that reads as a dataset.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tqdm
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from qt_jax import storage
from qt_jax.data import records
from qt_jax.errors import UserError

INFO = "dataset_info.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def repack(source: str, target: str) -> tuple[epath.Path, int, int]:
    """Copies the dataset below `source` to `target`/VERSION.

    Args:
        source: a version directory, or the folder that holds it.
        target: a folder.

    Returns:
        The new directory, the number of records, and their bytes.

    Raises:
        UserError: if there is no TFRecord dataset, a file of it is damaged, or the target exists.
    """
    builder = _open(source)
    info, version = builder.info, builder.data_dir
    path = storage.directory(target) / epath.Path(version).name
    in_bucket = "://" in str(path)
    if (path / INFO if in_bucket else path).exists():
        raise UserError(f"{path} exists; delete it or choose another --output.", topic="output-exists")
    work = path if in_bucket else path.with_name(f"{path.name}.incomplete_repack")
    if work.exists():  # what an earlier attempt left
        work.rmtree()
    work.mkdir(parents=True)

    total = sum(split.num_examples for split in info.splits.values())
    count = size = 0
    with tqdm.tqdm(total=total, desc="repack", unit="record") as progress:
        for name, split in info.splits.items():
            files = len(split.shard_lengths)
            for number, (file, examples) in enumerate(zip(split.filepaths, split.shard_lengths)):
                copy = work / f"{info.name}-{name}.array_record-{number:05d}-of-{files:05d}"
                for record in _copied(epath.Path(file), examples, copy):
                    count += 1
                    size += len(record)
                    progress.update()

    shards = {epath.Path(file).name for split in info.splits.values() for file in split.filepaths}
    for file in epath.Path(version).iterdir():  # features, label names, whatever else describes the records
        if file.is_file() and file.name not in shards | {INFO}:
            (work / file.name).write_bytes(file.read_bytes())
    (work / INFO).write_text(array_record_info(epath.Path(version) / INFO))
    if not in_bucket:
        work.rename(path)
    return path, count, size


def _open(source: str) -> Any:
    import tensorflow_datasets as tfds

    directory = storage.directory(source)
    builder = None
    try:
        files = [directory / INFO] if (directory / INFO).exists() else directory.glob(f"*/{INFO}")
        versions = [file.parent for file in files if tfds.core.Version.is_valid(file.parent.name)]
        if versions:
            newest = max(versions, key=lambda version: tfds.core.Version(version.name))
            builder = tfds.builder_from_directory(str(newest))
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{source} cannot be read ({type(error).__name__}: {line}); mend the access or copy it again."
        ) from error
    if builder is None:
        raise UserError(f"{source} holds no TFDS dataset (no VERSION/{INFO}); correct --input.")
    if (found := builder.info.file_format.value) != "tfrecord":
        raise UserError(f"{source} is in {found} files, expected tfrecord; there is nothing to repack.")
    return builder


def _copied(file: epath.Path, examples: int, copy: epath.Path) -> Iterator[bytes]:
    """Yields the records of one file, each after it is written to `copy`; counts the copy at the end."""
    if not file.exists():
        raise UserError(f"{file} is missing; copy the dataset again.")
    stat = file.stat()
    shard = records.Shard(
        str(file), "tfrecord", size=stat.length, modified=float(stat.mtime), examples=examples
    )
    with local_file(copy) as local:
        writer = ArrayRecordWriter(local, "group_size:1")  # each record can be read by itself, as in TFDS
        end = 0
        try:
            for position, record in records.scan(shard, cache=""):
                if isinstance(record, records.BadRecord):
                    raise UserError(
                        f"{file}: the record at byte {position} {record}; the file is damaged, copy it again."
                    )
                writer.write(record)
                end = position + 16 + len(record)  # TFRecord's framing is 16 bytes
                yield record
        except records.BadShard as error:
            raise UserError(f"{file} {error}; the file is damaged, copy it again.") from error
        finally:
            writer.close()
        if end != shard.size:
            raise UserError(
                f"{file} holds more than the {examples} records that {INFO} lists; copy the dataset again."
            )
        if (written := ArrayRecordReader(local).num_records()) != examples:
            raise UserError(
                f"{copy} holds {written} of {examples} records after writing; is the disk full?",
                topic="disk-full",
            )


@contextlib.contextmanager
def local_file(file: epath.Path) -> Iterator[str]:
    """Yields where ArrayRecord can write: the file, or for a bucket a temporary one, sent at the end."""
    if "://" not in str(file):
        yield str(file)
        return
    with tempfile.NamedTemporaryFile() as temporary:
        yield temporary.name
        with open(temporary.name, "rb") as local, file.open("wb") as remote:
            shutil.copyfileobj(local, remote, 16 * 2**20)


def array_record_info(file: epath.Path) -> str:
    """Returns the metadata with the new format and names of files; all else is about the same records."""
    info = json.loads(file.read_text())
    info["fileFormat"] = "array_record"
    info.pop("alternativeFileFormats", None)
    for split in info["splits"]:
        split["filepathTemplate"] = _TEMPLATE
    return json.dumps(info, indent=2)
