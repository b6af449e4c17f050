"""Folders of recorded episodes -> what `rlds_writer` writes: one file a format, and what they share in
`recording`.

A format opens a folder into a `Source`: its units of work, each of which a Beam worker can read by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from qt_jax.curation.convert import hdf5, lerobot
from qt_jax.curation.convert.recording import Episode, Source
from qt_jax.curation.convert.settings import CUTS, Settings
from qt_jax.errors import UserError

__all__ = ["CUTS", "FORMATS", "Settings", "episodes", "open_source", "strictly"]

FORMATS = {"lerobot": lerobot.open_source, "hdf5": hdf5.open_source}


def open_source(settings: Settings) -> Source:
    """Raises UserError if the folder is not of that format, is empty, or lacks what the settings name."""
    if settings.format not in FORMATS:
        raise UserError(f"--format is {settings.format!r}; expected one of {sorted(FORMATS)}.")
    return FORMATS[settings.format](settings)


def episodes(source: Source, notes: list[str]) -> Iterator[Episode]:
    """All, but for the bad ones, which are counted; what the others give to note is added to `notes`.

    Raises:
        UserError: for more of those than are allowed, or where none is left.

    """
    written = 0
    for unit in source.units:
        for _, episode in source.read(unit):
            if isinstance(episode, UserError):
                source.skips.add(episode)
            else:
                written += 1
                notes += episode.notes
                yield episode
    if not written:
        raise source.skips.none_left(source.description)


def strictly(source: Source) -> Callable[[Any], Iterable[tuple[int, Episode]]]:
    """`source.read` where nobody counts, on other machines: raises a UserError for a bad episode."""
    return functools.partial(_strictly, source.read)


def _strictly(
    read: Callable[[Any], Iterable[tuple[int, Episode | UserError]]], unit: Any
) -> Iterator[tuple[int, Episode]]:
    for index, episode in read(unit):
        if isinstance(episode, UserError):
            raise episode
        yield index, episode
