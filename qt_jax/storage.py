"""Directories on local disk and in buckets (gs://, s3://), through epath and fsspec."""

from __future__ import annotations

import os
import uuid

import fsspec
from etils import epath

from qt_jax.errors import UserError

os.environ.setdefault("EPATH_USE_TF", "false")  # else epath imports TensorFlow, where it is installed, to reach a bucket


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
        raise UserError(f"{path} cannot be opened ({error}); for gs:// run `pip install 'qt_jax[cloud]'`.") from error
    return epath.Path(path)


def replace_bytes(path: epath.Path, content: bytes) -> None:
    """Writes `path` so that a reader sees the old content or the new, never half of it (an object store does that by itself)."""
    if "://" in str(path):
        path.write_bytes(content)
    else:
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")  # others, on other hosts too, may write the same file now
        new.write_bytes(content)
        new.replace(path)


def replace_text(path: epath.Path, text: str) -> None:
    """`replace_bytes` of a text."""
    replace_bytes(path, text.encode())
