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

logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # which writes pages of what it raises, too
os.environ.setdefault(
    "EPATH_USE_TF", "false"
)  # else epath imports TensorFlow, where it is installed, to reach a bucket


def directory(path: str) -> epath.Path:
    """The directory `path`, absolute; it need not exist.

    Raises:
        UserError: if its store is unknown or needs a library that is not installed.

    """
    if "://" not in path:
        return epath.Path(path).expanduser().resolve()  # which would take a bucket's name for a relative one
    try:
        fsspec.get_filesystem_class(path.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{path} cannot be opened ({error}); for gs:// run `pip install 'qt_jax[cloud]'`."
        ) from error
    return epath.Path(path)


def replace_bytes(path: epath.Path, content: bytes) -> None:
    """Writes `path` so that a reader sees the old content or the new, never half of it (an object store does
    that by itself).
    """
    if "://" in str(path):
        path.write_bytes(content)
    else:
        new = path.with_name(
            f"{path.name}.{uuid.uuid4().hex}.new"
        )  # others, on other hosts too, may write the same file now
        new.write_bytes(content)
        new.replace(path)


def replace_text(path: epath.Path, text: str) -> None:
    """`replace_bytes` of a text."""
    replace_bytes(path, text.encode())


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[None]:
    """Raises a UserError with the cause and the remedy where the file `path` cannot be written."""
    try:
        yield
    except (OSError, MemoryError) as error:
        fault = faults.find(error)
        gone = "its directory is gone" if isinstance(error, FileNotFoundError) else "it failed"
        what, remedy = (fault.what, fault.remedy) if fault else (gone, "look at the storage")
        told = faults.told(error)
        raise UserError(f"{path} cannot be written: {what} ({told}); {remedy}, and start again.") from error


def can_append(path: epath.Path) -> bool:
    """Whether a file there can grow: not in an object store."""
    return "://" not in str(path)


def append_line(path: epath.Path, line: str) -> None:
    """Adds a line to a file, apart from one that was torn; an object store has the whole file written again.

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
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")


def json_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of a file with one a line; none where there is no file.

    Lines that a crash tore are left out.
    """
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    found = []
    for line in text.split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [value for value in found if isinstance(value, dict)]
