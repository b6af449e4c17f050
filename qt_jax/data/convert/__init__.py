"""Folders of recorded episodes -> what `rlds_writer` writes: one file a format, and what they share in `recording`.

A format opens a folder into a `Source`: its units of work, each of which a Beam worker can read by itself.
"""

from __future__ import annotations

from qt_jax.data.convert import hdf5, lerobot
from qt_jax.data.convert.recording import Settings, Source
from qt_jax.errors import UserError

FORMATS = {"lerobot": lerobot.open_source, "hdf5": hdf5.open_source}


def open_source(settings: Settings) -> Source:
    """Raises UserError if the folder is not of that format, is empty, or lacks what the settings name."""
    if settings.format not in FORMATS:
        raise UserError(f"--format is {settings.format!r}; expected one of {sorted(FORMATS)}.")
    return FORMATS[settings.format](settings)
