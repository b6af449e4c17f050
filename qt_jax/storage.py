"""Directories on local disk and in buckets (gs://, s3://), through epath and fsspec."""

from __future__ import annotations

import os

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
        return epath.Path(path).resolve()  # which would take a bucket's name for a relative one
    try:
        fsspec.get_filesystem_class(path.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be opened ({error}); for gs:// run `pip install 'qt_jax[cloud]'`.") from error
    return epath.Path(path)


def replace_text(path: epath.Path, text: str) -> None:
    """Writes `path` so that a reader sees the old text or the new, never half of it (an object store does that by itself)."""
    if "://" in str(path):
        path.write_text(text)
    else:
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)
