"""Directories on local disk and in buckets (gs://, s3://), through epath and fsspec."""

from __future__ import annotations

import os

import fsspec
from etils import epath

from qt_jax.errors import UserError

os.environ.setdefault("EPATH_USE_TF", "false")  # else epath imports TensorFlow, where it is installed, to reach a bucket


def directory(path: str) -> epath.Path:
    """The directory `path`, which need not exist.

    Raises:
        UserError: if its store is unknown or needs a library that is not installed.
    """
    if "://" in path:
        try:
            fsspec.get_filesystem_class(path.partition("://")[0])
        except (ImportError, ValueError) as error:
            raise UserError(f"{path} cannot be opened ({error}); for gs:// run `pip install 'qt_jax[cloud]'`.") from error
    return epath.Path(path)
