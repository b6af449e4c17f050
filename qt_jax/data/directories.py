"""Opens a dataset where it lies: an RLDS directory, or a LeRobot folder."""

from __future__ import annotations

from qt_jax.data import lerobot, records
from qt_jax.data.stored import Stored


def open_dataset(path: str) -> Stored:
    """Opens the dataset in the directory `path`.

    Raises:
        UserError: if there is none, or it cannot be read.

    """
    return lerobot.open_folder(path) if lerobot.is_folder(path) else records.open_directory(path)
