"""LeRobot datasets of versions 2.0 and 2.1 (a file an episode) and 3.0 (many episodes a file).

Images are in the parquet files or in videos. A frame holds an observation and the action taken there; nothing
holds the observation after the last action, so the final action of each episode is given up (see
`recording`). All columns of numbers are read before anything is written: they show the bounds of the actions
(the dataset's own statistics are not used) and the bad episodes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation.convert import lerobot_keys, parts, settings
from qt_jax.curation.convert.action_space import Movements
from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.keys import Key, told
from qt_jax.curation.convert.lerobot_episode import Layout, Piece, cut, name_of, recording_of, times_of
from qt_jax.curation.convert.recording import (
    Indexed,
    Recording,
    Source,
    check,
    finished,
)
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import Skips, unreadable
from qt_jax.data import lerobot_meta
from qt_jax.data.lerobot import check_videos, longer_videos
from qt_jax.data.lerobot_meta import Entry, Metadata
from qt_jax.data.stored import BadRecord
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec


def open_source(given: Settings) -> Source:
    """Opens a LeRobot dataset.

    Raises:
        UserError: if the folder holds none, for more bad episodes than are allowed, or for a setting that
            names what is not there.
    """
    root = Path(given.input)
    if given.fps:
        raise UserError(
            f"--fps is {given.fps:g}; leave it out, a LeRobot dataset says itself how fast it was recorded."
        )
    metadata = lerobot_meta.read(root)
    numbers = {entry.number for entry in metadata.entries}
    chosen = parts.choose(given, metadata.splits, numbers, lerobot_keys.words(numbers), str(root))
    entries = [entry for entry in metadata.entries if entry.number in chosen.written]
    try:
        with told(lambda: lerobot_keys.possible(metadata)):
            layout, observation, keys = _layout(given, metadata)
    except KeyError as error:
        raise UserError(f"{root}/meta/info.json has a feature without {error}; copy it again.") from error
    except lerobot_meta.NOT_AS_WRITTEN as error:
        raise UserError(
            f"{root}/meta/info.json has a feature that is not as LeRobot writes it ({error}); copy it again."
        ) from error

    files = [list(group) for _, group in itertools.groupby(entries, lambda entry: entry.file)]
    names = settings.action_names(given, lerobot_meta.joined_names(metadata.features, layout.action))
    state = [name for key in layout.state for name in lerobot_meta.names(metadata.features[key], "s")]
    bounds, skips = Bounds(names, Movements(names, state, given.action_state)), Skips(given.max_skipped)
    units: list[list[Piece]] = []
    validation: list[list[Piece]] = []
    with told(lambda: keys):
        for good in _survey(given, layout, files, bounds, skips):
            for kept, part in ((units, chosen.training), (validation, chosen.validation)):
                if pieces := [piece for piece in good if piece.entry.number in part]:
                    kept.append(pieces)
        if not units:
            raise skips.none_left(str(root))

    return Source(
        units=units,
        validation=tuple(validation),
        episodes=sum(map(len, (*units, *validation))),
        read=functools.partial(_read, given, layout),
        bounds=bounds,
        observation=observation,
        description=f"Converted from LeRobot, {root.name}",
        keys=(*keys, *parts.rows(chosen, "split ")),
        notes=tuple(bounds.warnings()),
        skips=skips,
        spaces=bounds.spaces(),
    )


def _layout(given: Settings, metadata: Metadata) -> tuple[Layout, ObservationSpec, list[Key]]:
    """Returns the layout, the spec of the observations, and what becomes of each feature."""
    features, name = metadata.features, str(metadata.root)
    action = settings.action_keys(given, features, name)
    for key in action:
        if not lerobot_meta.is_vector(key, features[key]):
            raise UserError(
                f"--action={key}: {name} has it as {features[key]['dtype']}, expected numbers; give "
                "--action=KEY."
            )

    pictures = [key for key, feature in features.items() if lerobot_meta.is_image(feature)]
    keys = settings.camera_names(given, pictures, ".", name)
    reasons = {short: lerobot_meta.why_unusable(key, features[key]) for short, key in keys.items()}
    refused = {short: why for short, why in reasons.items() if why}
    usable = {short: features[key] for short, key in keys.items() if short not in refused}
    cameras = settings.cameras(given, usable, refused, name)

    vectors = {
        key: feature
        for key, feature in features.items()
        if key not in action and lerobot_meta.is_vector(key, feature)
    }
    default = [key for key in lerobot_meta.STATES if key in vectors][:1]
    if vectors and not default and given.state is None:
        raise UserError(
            f"{name} has no {lerobot_meta.STATES[0]!r}; give --state=KEY, of {sorted(vectors)}, or --state= "
            "for none."
        )
    state = settings.choose("--state", given.state, vectors, default, name)
    settings.check_observed(cameras, state, features, name)
    dims = {key: int(np.prod(features[key]["shape"])) for key in (*action, *state)}
    description = ", ".join(f"{key}: {' '.join(lerobot_meta.names(vectors[key]))}" for key in state)
    sizes = {short: lerobot_meta.height_width_channels(usable[short])[:2] for short in cameras}
    observation = ObservationSpec(
        tuple(cameras), settings.image_size(given, sizes, name), sum(dims[key] for key in state), description
    )

    one_number = [key for key, feature in features.items() if lerobot_keys.is_mark(key, feature)]
    success = settings.success_key(given, sorted(one_number), "next.success", name)
    numbers = {*action, *state, given.reward, given.intervention, success} - {"", "all", "none"}
    columns = numbers | {"task_index", "episode_index"} | ({"timestamp"} & set(features))
    layout = Layout(
        root=name,
        fps=metadata.fps,
        cameras={keys[short]: short for short in cameras},
        size=observation.image_size,
        action=action,
        state=tuple(state),
        dims=dims,
        success=success,
        tasks=metadata.tasks,
        columns=tuple(sorted(columns)),
    )
    why = {keys[short]: reason for short, reason in refused.items()}
    return layout, observation, lerobot_keys.of(given, layout, metadata, why)


def _survey(
    given: Settings, layout: Layout, files: list[list[Entry]], bounds: Bounds, skips: Skips
) -> Iterator[list[Piece]]:
    """Yields the good pieces of each file, by their numbers; counts the bad ones."""
    index = itertools.count()
    for entries in files:
        good = []
        for entry, table in _tables(layout, entries, with_images=False):
            if isinstance(table, UserError):
                skips.add(table)
                continue
            name = name_of(layout, entry)
            for piece in skips.attempt(name, functools.partial(cut, given, layout, entry, table)) or ():
                recording = skips.attempt(name, functools.partial(_checked, given, layout, piece, table))
                if recording is not None:
                    bounds.add(recording.name, recording.actions, recording.state, recording.first)
                    good.append(dataclasses.replace(piece, index=next(index)))
        yield good


def _checked(given: Settings, layout: Layout, piece: Piece, table: Any) -> Recording:
    recording = recording_of(given, layout, piece, table)
    check(recording)
    try:
        check_videos(Path(layout.root), piece.entry, layout.fps, layout.cameras)
    except BadRecord as error:
        raise UserError(f"{recording.name}: {error}.") from error
    return recording


def _read(given: Settings, layout: Layout, pieces: list[Piece]) -> Iterator[Indexed]:
    entries = {piece.entry.number: piece.entry for piece in pieces}
    for entry, table in _tables(layout, list(entries.values()), with_images=True):
        for piece in pieces:
            if piece.entry.number != entry.number:
                continue
            if isinstance(table, UserError):
                yield piece.index, table
                continue
            read = functools.partial(recording_of, given, layout, piece, table)
            index, episode = finished(name_of(layout, entry), read, piece.index, given.collector)
            if not isinstance(episode, UserError) and piece.stop == entry.length:
                notes = (*episode.notes, *_longer_videos(layout, entry, table))
                episode = dataclasses.replace(episode, notes=notes)
            yield index, episode


def _longer_videos(layout: Layout, entry: Entry, table: Any) -> tuple[str, ...]:
    longer = longer_videos(Path(layout.root), entry, float(times_of(layout, table)[-1]), layout.fps)
    return tuple(
        f"{name_of(layout, entry)}: the video of {name!r} {longer[key]}"
        for key, name in layout.cameras.items()
        if key in longer
    )


def _tables(layout: Layout, entries: list[Entry], with_images: bool) -> Iterator[tuple[Entry, Any]]:
    """Yields the rows of each of `entries`, all of one file, or a UserError that says why not."""
    left = {entry.number: entry for entry in entries}
    stored = [key for key in layout.cameras if key not in entries[0].clips]
    file, numbers = f"{layout.root}/{entries[0].file}", list(layout.columns)
    try:
        for number, table in _episode_tables(file, numbers + stored * with_images, expected=numbers + stored):
            if (entry := left.pop(number, None)) is None:
                continue  # of another split, or bad
            if len(table) != entry.length:
                why = f"has {len(table)} frames, the metadata says {entry.length}; copy the dataset again."
                yield entry, UserError(f"{name_of(layout, entry)} {why}")
            else:
                yield entry, table
        why = "is not there, the metadata lists it; copy the dataset again."
    except UserError as error:
        why = str(error)
    except Exception as error:
        why = unreadable(error)
    for entry in left.values():
        yield entry, UserError(f"{name_of(layout, entry)} {why}")


def _episode_tables(file: str, columns: list[str], expected: list[str]) -> Iterator[tuple[int, Any]]:
    """Yields (number, table) of each episode, in the file's order, without holding the whole file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Any] = []
    with pq.ParquetFile(file) as content:
        if missing := sorted(set(expected) - set(content.schema_arrow.names)):
            raise UserError(
                f"has no column {', '.join(missing)}, expected as in meta/info.json; copy it again."
            )
        for batch in content.iter_batches(batch_size=256, columns=columns):
            numbers = batch["episode_index"].to_numpy()
            edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
            for start, end in zip(edges, edges[1:]):
                if parts and parts[0]["episode_index"][0].as_py() != numbers[start]:
                    yield parts[0]["episode_index"][0].as_py(), pa.Table.from_batches(parts)
                    parts = []
                parts.append(batch.slice(start, end - start))
    if parts:
        yield parts[0]["episode_index"][0].as_py(), pa.Table.from_batches(parts)
