"""Directories on local disk and in buckets (gs://, s3://), through epath and fsspec."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

from qt_jax import faults
from qt_jax.errors import UserError

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs pages of what it raises anyway
# Otherwise epath imports TensorFlow, where it is installed, to reach a bucket.
os.environ.setdefault("EPATH_USE_TF", "false")

BUCKETS = ("gs", "s3")
"""Schemes of the stores that are read."""


def directory(path: str) -> epath.Path:
    """Returns the directory `path`, absolute; it need not exist.

    Raises:
        UserError: if its store is unknown or needs a library that is not installed, or no bucket is named.

    """
    if "://" not in path:  # `resolve` would take a bucket's name for a relative path
        return epath.Path(path).expanduser().resolve()
    store, _, place = path.partition("://")
    if store not in BUCKETS or not place.partition("/")[0]:
        raise UserError(
            f"{path} is of no store that is known; expected a folder's path, gs://BUCKET/... or s3://BUCKET/..."
        )
    try:
        fsspec.get_filesystem_class(store)
    except ImportError as error:
        package = "'qt_jax[cloud]'" if store == "gs" else "s3fs"
        raise UserError(
            f"{path} cannot be opened ({error}); run `pip install {package}`.", topic="missing-package"
        ) from error
    return epath.Path(path)


def writable(path: str) -> epath.Path:
    """Returns `directory` of a place for datasets or checkpoints, which TFDS and Orbax write.

    Raises:
        UserError: as `directory`, and for s3://, which neither can write.

    """
    if path.startswith("s3://"):
        raise UserError(
            f"{path} cannot be used here: datasets are read from s3://, but they and checkpoints are written "
            "to a folder or to gs:// alone."
        )
    return directory(path)


def replace_bytes(path: epath.Path, content: bytes) -> None:
    """Writes `path` so that a reader sees the old content or the new, never a part of it."""
    if "://" in str(path):  # an object store does that by itself
        path.write_bytes(content)
    else:  # under a name of its own: other processes and hosts may write the same file now
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
        new.write_bytes(content)
        new.replace(path)


def replace_text(path: epath.Path, text: str) -> None:
    """Writes a text as `replace_bytes` does."""
    replace_bytes(path, text.encode())


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """Turns an error of writing the file `path` into a UserError with the cause and the remedy."""
    try:
        yield
    except (OSError, MemoryError) as error:
        fault = faults.find(error)
        gone = "its directory is gone" if isinstance(error, FileNotFoundError) else "it failed"
        what, remedy = (fault.what, fault.remedy) if fault else (gone, "look at the storage")
        cause = faults.root_cause(error)
        raise UserError(
            f"{path} cannot be written: {what} ({cause}); {remedy}, and start again.",
            topic=fault.topic if fault else "",
        ) from error


def can_append(path: epath.Path) -> bool:
    """Returns whether a file there can grow, which it cannot in an object store."""
    return "://" not in str(path)


def append_line(path: epath.Path, line: str) -> None:
    """Appends a line to a file; in an object store the whole file is written again.

    If a crash cut the file's last line short, the new one begins on a line of its own.

    Raises:
        UserError: if it cannot be written.

    """
    with writing(path):
        if not can_append(path):
            before = path.read_text() if path.exists() else ""
            path.write_text(f"{before}{line}\n")
            return
        with open(path, "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            is_cut = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write((b"\n" if is_cut else b"") + line.encode() + b"\n")


def json_lines(path: epath.Path) -> list[dict[str, Any]]:
    """Reads a file of one JSON object a line; returns none where there is no file.

    Lines that a crash cut short are left out.
    """
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    found = []
    for line in text.split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [value for value in found if isinstance(value, dict)]
