"""Folders of recorded episodes -> an RLDS dataset: one file a format; `recording` has what formats share.

A format opens a folder as a `Source`: its units of work, each of which a Beam worker can read by itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tqdm
from etils import epath

from qt_jax.curation import rlds_writer
from qt_jax.curation.convert import action_space, hdf5, lerobot, merge, ogbench
from qt_jax.curation.convert.keys import told
from qt_jax.curation.convert.recording import Indexed, Source
from qt_jax.curation.convert.settings import CUTS, Settings
from qt_jax.data.recorded import RecordedEpisode
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATION

__all__ = ["CUTS", "FORMATS", "Settings", "episodes", "open_source", "open_sources", "strictly", "write"]

FORMATS = {"lerobot": lerobot.open_source, "hdf5": hdf5.open_source, "ogbench": ogbench.open_source}


def open_source(settings: Settings) -> Source:
    """Opens the folder `settings.input`, twice where actions are to be turned: first to see what they are.

    Raises:
        UserError: if the folder is not of that format, is empty, or lacks what the settings name.
    """
    if settings.format not in FORMATS:
        raise UserError(f"--format is {settings.format!r}; expected one of {sorted(FORMATS)}.")
    if settings.delta_unit and not settings.action_space:
        raise UserError(
            "--delta_unit is for --action_space=delta or absolute; give it too, or leave both out."
        )
    if settings.intervention and settings.collector != DEMONSTRATION:
        raise UserError(
            f"--collector={settings.collector} says who acted at all steps, --intervention says it step by "
            "step; give one of them."
        )
    source = _opened(settings)
    if not (to := settings.action_space):
        return source
    spaces, given = source.spaces, settings.action_state is not None
    with told(lambda: source.keys):
        turn = action_space.turn(spaces, to, settings.delta_unit, given)
    if not turn:
        return dataclasses.replace(source, notes=(*source.notes, f"--action_space={to}: they are so already"))
    source = _opened(dataclasses.replace(settings, turn=turn))
    notes = (*source.notes, f"--action_space={to}: {turn.described(spaces)}")
    return dataclasses.replace(source, spaces=action_space.after(spaces, turn), notes=notes)


def _opened(settings: Settings) -> Source:
    source = FORMATS[settings.format](settings)
    return dataclasses.replace(source, intervention=bool(settings.intervention))


def open_sources(settings: Sequence[Settings]) -> Source:
    """Opens several folders as one, as `open_source` does each.

    Raises:
        UserError: as `open_source` and `merge.merged` do, or for a folder that is given twice.
    """
    if len(settings) == 1:
        return open_source(settings[0])
    names = [one.input for one in settings]
    if len(set(names)) < len(names):
        raise UserError(f"--input is given twice: {max(names, key=names.count)}; leave one out.")
    return merge.merged({one.input: open_source(one) for one in settings})


def write(
    source: Source,
    path: str,
    *,
    reward: str,
    file_format: str,
    runner: str = "local",
    beam_options: Sequence[str] = (),
) -> tuple[epath.Path, int, list[str]]:
    """Writes the episodes of `source` as the dataset `path`/1.0.0.

    Args:
        source: what `open_source` returned.
        path: the dataset's directory.
        reward: `DatasetSpec.reward` of the dataset: "success" or "stored".
        file_format: one of `rlds_writer.FILE_FORMATS`.
        runner: one of `rlds_writer.RUNNERS`.
        beam_options: Beam's own, such as "--runner=DataflowRunner".

    Returns:
        That directory, the number of episodes in it, and notes about them.

    Raises:
        UserError: for more bad episodes than are allowed, or where none is left.
    """
    about: dict[str, Any] = dict(
        action=source.action,
        observation=source.observation,
        description=source.description,
        file_format=file_format,
        reward=reward,
        action_space=action_space.metadata(source.spaces),
        intervention=source.intervention,
    )
    notes: list[str] = []
    count, skipped = source.episodes, len(source.skips.errors)
    if runner == "local":
        with tqdm.tqdm(total=count, desc="convert", unit="episode") as shown:

            def read(units: Sequence[Any]) -> Iterator[RecordedEpisode]:
                for episode in episodes(source, units, notes):
                    shown.update()
                    yield episode

            validation = read(source.validation) if source.validation else None
            directory = rlds_writer.write(path, read(source.units), validation=validation, **about)
    else:
        about["validation"] = source.validation or None
        directory = rlds_writer.write_with_beam(
            path, source.units, strictly(source), options=beam_options, **about
        )
    return directory, count - (len(source.skips.errors) - skipped), notes


def episodes(source: Source, units: Sequence[Any], notes: list[str]) -> Iterator[RecordedEpisode]:
    """Reads all episodes but the bad ones, which are counted; adds the notes of the others to `notes`.

    Args:
        source: what `open_source` returned.
        units: its own, those of training or of validation.
        notes: is added to.

    Raises:
        UserError: for more bad episodes than are allowed, or where none is left.
    """
    written = 0
    for unit in units:
        for _, episode in source.read(unit):
            if isinstance(episode, UserError):
                source.skips.add(episode)
            else:
                written += 1
                notes += episode.notes
                yield episode
    if not written:
        raise source.skips.none_left(source.description)


def strictly(source: Source) -> Callable[[Any], Iterable[tuple[int, RecordedEpisode]]]:
    """Returns `source.read` for other machines, where nobody counts: a bad episode is an error there."""
    return functools.partial(_strictly, source.read)


def _strictly(read: Callable[[Any], Iterable[Indexed]], unit: Any) -> Iterator[tuple[int, RecordedEpisode]]:
    for index, episode in read(unit):
        if isinstance(episode, UserError):
            raise episode
        yield index, episode
