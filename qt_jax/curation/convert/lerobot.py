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

from qt_jax.curation.convert import images, lerobot_keys, parts, settings
from qt_jax.curation.convert.action_space import Movements
from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.keys import Key, told
from qt_jax.curation.convert.recording import (
    Frames,
    Indexed,
    Recording,
    Source,
    check,
    finished,
    outcome,
    turned,
)
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import Skips, unreadable
from qt_jax.data import lerobot_meta
from qt_jax.data.lerobot import longer_videos
from qt_jax.data.lerobot_meta import Entry, Metadata
from qt_jax.data.video import BadImage, Clip
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a worker needs to read any episode of the folder.

    Attributes:
        root: the folder.
        fps: steps a second.
        cameras: {key: name in the dataset}.
        size: (height, width) of all images in the dataset.
        action: the key of the action.
        state: keys that are joined to the state.
        dims: {key: dims} of the action and of each part of the state.
        success: "all", "none", or the key of success.
        tasks: {task_index: instruction}.
        columns: keys of all numbers that are read.
    """

    root: str
    fps: float
    cameras: dict[str, str]
    size: tuple[int, int]
    action: str
    state: tuple[str, ...]
    dims: dict[str, int]
    success: str
    tasks: dict[int, str]
    columns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows [start, stop) of an episode, which become an episode of the dataset.

    Attributes:
        index: its place in the dataset.
        entry: the episode that it is a part of.
        start: its first row.
        stop: the row after its last one.
        observed: whether row `stop` holds the observation after the last action.
    """

    index: int
    entry: Entry
    start: int
    stop: int
    observed: bool


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
    names = lerobot_meta.names(metadata.features[layout.action])
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
    action = settings.action_key(given, features, name)
    if not lerobot_meta.is_vector(action, features[action]):
        raise UserError(
            f"--action={action}: {name} has it as {features[action]['dtype']}, expected numbers; give "
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
        if key != action and lerobot_meta.is_vector(key, feature)
    }
    default = [key for key in lerobot_meta.STATES if key in vectors][:1]
    if vectors and not default and given.state is None:
        raise UserError(
            f"{name} has no {lerobot_meta.STATES[0]!r}; give --state=KEY, of {sorted(vectors)}, or --state= "
            "for none."
        )
    state = settings.choose("--state", given.state, vectors, default, name)
    settings.check_observed(cameras, state, features, name)
    dims = {key: int(np.prod(vectors[key]["shape"])) for key in state}
    description = ", ".join(f"{key}: {' '.join(lerobot_meta.names(vectors[key]))}" for key in state)
    sizes = {short: lerobot_meta.height_width_channels(usable[short])[:2] for short in cameras}
    observation = ObservationSpec(
        tuple(cameras), settings.image_size(given, sizes, name), sum(dims.values()), description
    )

    one_number = [key for key, feature in features.items() if lerobot_keys.is_mark(key, feature)]
    success = settings.success_key(given, sorted(one_number), "next.success", name)
    numbers = {action, *state, given.reward, given.intervention, success} - {"", "all", "none"}
    columns = numbers | {"task_index", "episode_index"} | ({"timestamp"} & set(features))
    layout = Layout(
        root=name,
        fps=metadata.fps,
        cameras={keys[short]: short for short in cameras},
        size=observation.image_size,
        action=action,
        state=tuple(state),
        dims=dims | {action: int(np.prod(features[action]["shape"]))},
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
            name = _name(layout, entry)
            for piece in skips.attempt(name, functools.partial(_cut, given, layout, entry, table)) or ():
                recording = skips.attempt(name, functools.partial(_checked, given, layout, piece, table))
                if recording is not None:
                    bounds.add(recording.name, recording.actions, recording.state, recording.first)
                    good.append(dataclasses.replace(piece, index=next(index)))
        yield good


def _checked(given: Settings, layout: Layout, piece: Piece, table: Any) -> Recording:
    recording = _recording(given, layout, piece, table)
    check(recording)
    for key in filter(piece.entry.clips.get, layout.cameras):
        path = Path(layout.root) / piece.entry.clips[key].path
        if not path.exists():
            raise UserError(f"{recording.name}: {path} is missing; copy the dataset again.")
    return recording


def _name(layout: Layout, entry: Entry) -> str:
    return f"{layout.root}/{entry.file}: episode {entry.number}"


def _read(given: Settings, layout: Layout, pieces: list[Piece]) -> Iterator[Indexed]:
    entries = {piece.entry.number: piece.entry for piece in pieces}
    for entry, table in _tables(layout, list(entries.values()), with_images=True):
        for piece in pieces:
            if piece.entry.number != entry.number:
                continue
            if isinstance(table, UserError):
                yield piece.index, table
                continue
            read = functools.partial(_recording, given, layout, piece, table)
            index, episode = finished(_name(layout, entry), read, piece.index, given.collector)
            if not isinstance(episode, UserError) and piece.stop == entry.length:
                notes = (*episode.notes, *_longer_videos(layout, entry, table))
                episode = dataclasses.replace(episode, notes=notes)
            yield index, episode


def _longer_videos(layout: Layout, entry: Entry, table: Any) -> tuple[str, ...]:
    longer = longer_videos(Path(layout.root), entry, float(_times(layout, table)[-1]), layout.fps)
    return tuple(
        f"{_name(layout, entry)}: the video of {name!r} {longer[key]}"
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
                yield entry, UserError(f"{_name(layout, entry)} {why}")
            else:
                yield entry, table
        why = "is not there, the metadata lists it; copy the dataset again."
    except UserError as error:
        why = str(error)
    except Exception as error:
        why = unreadable(error)
    for entry in left.values():
        yield entry, UserError(f"{_name(layout, entry)} {why}")


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


def _cut(given: Settings, layout: Layout, entry: Entry, table: Any) -> list[Piece]:
    """Returns the pieces of an episode, all with index 0: one piece where nothing cuts it.

    Raises:
        UserError: for a gap in its timestamps or a second instruction, unless --cut makes two episodes of it.
    """
    name = _name(layout, entry)
    times, step_s = _times(layout, table), 1.0 / layout.fps
    if (unknown := np.flatnonzero(~np.isfinite(times))).size:
        raise UserError(
            f"{name}, step {unknown[0]}: its timestamp is no number; mend the file or leave the episode out."
        )
    in_time = np.abs(np.diff(times) - step_s) <= _tolerance_s(given, layout)
    gaps = set((np.flatnonzero(~in_time) + 1).tolist())
    if gaps and "gap" not in given.cut:
        step = min(gaps)
        after_s = times[step] - times[step - 1]
        raise UserError(
            f"{name}, step {step}: its timestamp is {times[step]:.4g} s, {after_s:.4g} s after the one "
            f"before; expected {step_s:.4g} s at {layout.fps:g} fps. --cut=gap makes two episodes of it, a "
            "wider --tolerance_s takes it as it is."
        )

    texts = [_task_text(layout, task) for task in table["task_index"].to_pylist()]
    changes: set[int] = set()
    if not given.instruction:
        changes = {step for step in range(1, len(texts)) if texts[step] != texts[step - 1]}
    if changes and "instruction" not in given.cut:
        step = min(changes)
        raise UserError(
            f"{name}, step {step}: its task changes from {texts[step - 1]!r} to {texts[step]!r}, expected "
            "one instruction an episode. --cut=instruction makes an episode of each part, "
            "--instruction='...' gives all episodes the same."
        )

    edges = [0, *sorted(gaps | changes), entry.length]

    def observed(stop):
        return stop < entry.length and stop not in gaps

    return [Piece(0, entry, start, stop, observed(stop)) for start, stop in zip(edges, edges[1:])]


def _task_text(layout: Layout, task: int | None) -> str:
    """Returns the instruction of a task; "" where there is none."""
    return "" if task is None else str(layout.tasks.get(task) or "").strip()


def _times(layout: Layout, table: Any, first: int = 0) -> np.ndarray:
    """Returns the seconds from the start of the episode, of rows from `first` on."""
    if "timestamp" not in layout.columns:
        return np.arange(first, first + len(table)) / layout.fps
    return lerobot_meta.numbers(table["timestamp"], np.float64)


def _tolerance_s(given: Settings, layout: Layout) -> float:
    return given.tolerance_s or 0.1 / layout.fps


def _vectors(layout: Layout, piece: Piece, rows: Any, key: str) -> np.ndarray:
    """Returns the action or a part of the state, [rows, dims].

    Raises:
        UserError: for a row with another number of dims than the metadata says.
    """
    values, dims = lerobot_meta.numbers(rows[key], np.float32), layout.dims[key]
    if values.size == len(rows) * dims:
        return values.reshape(len(rows), dims)
    sizes = [np.size(row) if row is not None else 0 for row in rows[key].to_pylist()]
    step = next((step for step, size in enumerate(sizes) if size != dims), 0)
    raise UserError(
        f"{_name(layout, piece.entry)}, step {piece.start + step}: {key!r} has {sizes[step]} dims, "
        f"meta/info.json says {dims}; mend the file or leave the episode out."
    )


def _recording(given: Settings, layout: Layout, piece: Piece, table: Any) -> Recording:
    """Returns the recording of a piece; images are read from the table later, if at all."""
    name, whole = _name(layout, piece.entry), piece.stop - piece.start == piece.entry.length
    name += "" if whole else f" from step {piece.start} to {piece.stop - 1}"
    rows = table.slice(piece.start, piece.stop - piece.start + piece.observed)
    count = piece.stop - piece.start

    def column(key):
        return lerobot_meta.numbers(rows[key], np.float32)[:count]

    vector = functools.partial(_vectors, layout, piece, rows)
    task = rows["task_index"][0].as_py()
    why = f"{name} has task_index {task}, to which the metadata has no text"
    state = [np.zeros((len(rows), 0), np.float32), *map(vector, layout.state)]
    recording = Recording(
        name=name,
        instruction=settings.instruction(given, _task_text(layout, task), why),
        frames={camera: _frames(given, layout, piece, rows, key) for key, camera in layout.cameras.items()},
        state=np.concatenate(state, axis=1),
        actions=vector(layout.action)[:count],
        success=outcome(layout.success, column, name),
        rewards=column(given.reward) if given.reward else None,
        dt=1.0 / layout.fps,
        first=piece.start,
        intervention=column(given.intervention) if given.intervention else None,
    )
    return turned(recording, given.turn)


def _frames(given: Settings, layout: Layout, piece: Piece, rows: Any, key: str) -> Frames:
    def where(step):
        return f"{_name(layout, piece.entry)}, step {piece.start + step}, camera {layout.cameras[key]!r}"

    def stored(count: int) -> Iterator[bytes | np.ndarray]:
        if key in piece.entry.clips:
            clip = piece.entry.clips[key]
            times = clip.start_s + _times(layout, rows, piece.start)[:count]
            try:
                yield from Clip(f"{layout.root}/{clip.path}", times, _tolerance_s(given, layout)).frames()
            except BadImage as error:
                raise UserError(f"{error}.") from error
        else:
            for image in rows[key].slice(0, count):
                yield lerobot_meta.image_file(image.as_py(), Path(layout.root))

    def read(count: int) -> Iterator[bytes]:
        resize, bgr = given.image_size is not None, layout.cameras[key] in given.bgr
        yield from images.encoded(stored(count), layout.size, resize, bgr, where)

    return Frames(len(rows), read)
