"""HDF5: files of demonstrations as robomimic has them (`data/demo_0/{obs/*, actions, rewards, dones}`), or of one episode each
(`action`, `observations/*`).

The last observation is taken from `next_obs` where that is there, or is the observation that follows the last action. All numbers are
read before anything is written, images of floats too: their range says what 1 means.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data.convert import hdf5_streams, images, settings
from qt_jax.data.convert.bounds import Bounds
from qt_jax.data.convert.hdf5_streams import Stream
from qt_jax.data.convert.recording import (
    Episode,
    Frames,
    Recording,
    Source,
    check,
    finished,
    outcome,
    per_step,
)
from qt_jax.data.convert.settings import Settings
from qt_jax.data.convert.skips import Skips
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec

SUFFIXES = (".hdf5", ".h5")
_INSTRUCTION = ("language_instruction", "instruction", "lang", "task_description")
_JSON = ("problem_info", "ep_meta", "env_args")
"""Attributes that hold JSON: LIBERO's, robocasa's and robomimic's."""


@dataclasses.dataclass(frozen=True)
class Place:
    """An episode: a group of a file."""

    file: str
    group: str

    @property
    def name(self) -> str:
        return f"{self.file}: {self.group}"


@dataclasses.dataclass(frozen=True)
class Shape:
    """What must be the same in all episodes: dims of the action, and what stands at each path of the observations."""

    dims: int
    streams: tuple[tuple[str, Stream], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a worker needs to read any episode. cameras: {path: name in our dataset}. scales: of the cameras of floats."""

    cameras: dict[str, str]
    state: tuple[str, ...]
    size: tuple[int, int]
    action: str
    success: str
    scales: dict[str, float]


def open_source(given: Settings) -> Source:
    root = Path(given.input)
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        raise UserError(
            f"{root} holds no file *{' or *'.join(SUFFIXES)}; expected HDF5 episodes, or give another --format."
        )
    for flag, value in (("cut", given.cut), ("tolerance_s", given.tolerance_s)):
        if value:
            raise UserError(
                f"--{flag} is for LeRobot's timestamps and tasks, which HDF5 has none of; leave it out."
            )
    skips = Skips(given.max_skipped)
    places, everything = [], 0
    for file in files:
        if opened := skips.attempt(str(file), functools.partial(_groups, given, file)):
            groups, masks = opened
            chosen = settings.split(given, masks, set(groups), "masks", str(file))
            places += [Place(str(file), group) for group in groups if group in chosen]
            everything += len(groups)
    if not places:
        raise skips.none_left(str(root))
    shapes = {
        place: shape
        for place in places
        if (shape := skips.attempt(place.name, functools.partial(_shape, given, place)))
    }
    if not shapes:
        raise skips.none_left(str(root))
    usual = collections.Counter(shapes.values()).most_common(1)[0][0]
    model = next(place for place, shape in shapes.items() if shape == usual)
    layout, observation, notes = _layout(given, model, usual)

    bounds, units = Bounds([f"a{i}" for i in range(usual.dims)]), []
    reaches: dict[str, list[tuple[float, float]]] = {path: [] for path, _ in _floats(layout, usual)}
    for place, shape in shapes.items():
        survey = functools.partial(_survey, given, layout, place, shape, model, usual)
        if (seen := skips.attempt(place.name, survey)) is None:
            continue
        recording, reach = seen
        bounds.add(recording.name, recording.actions)
        units.append((len(units), place))
        for path, least_greatest in reach.items():
            reaches[path].append(least_greatest)
    if not units:
        raise skips.none_left(str(root))
    layout = dataclasses.replace(
        layout, scales={path: _scale(reach, f"{root}: {path}") for path, reach in reaches.items()}
    )
    if len(places) < everything:
        notes.append(f"mask {given.split}: {len(places)} of {everything} episodes")
    return Source(
        units=units,
        episodes=len(units),
        read=functools.partial(_read, given, layout),
        action=bounds.spec(),
        observation=observation,
        description=f"Converted from HDF5, {root.name}",
        notes=(*notes, *bounds.warnings()),
        skips=skips,
    )


def _open(file: str | Path) -> Any:
    import h5py

    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise UserError(
            f"{file} cannot be opened ({str(error)[:200]}); the file is damaged or no HDF5, copy it again."
        ) from error


def _groups(given: Settings, file: Path) -> tuple[list[str], dict[str, set[str]]]:
    """The episodes of a file, demo_2 before demo_10, and its masks."""
    with _open(file) as content:
        groups = [
            f"data/{name}"
            for name, item in content.get("data", {}).items()
            if hasattr(item, "keys") and _has_action(given, item)
        ]
        if not groups and _has_action(given, content):
            groups = ["/"]
        if not groups:
            wanted = given.action or "actions"
            raise UserError(
                f"{file} has keys {sorted(content)}; expected data/demo_0/{wanted} (robomimic) or action and observations."
            )
        masks = {}
        for name, item in content.get("mask", {}).items():
            demos = [
                demo.decode() if isinstance(demo, bytes) else str(demo)
                for demo in np.asarray(item).reshape(-1)
            ]
            masks[name] = {f"data/{demo}" for demo in demos}
            if lost := sorted(masks[name] - set(groups)):
                raise UserError(
                    f"{file}: mask/{name} names {lost[0]}, which is not there; mend the mask or copy the file again."
                )
    return sorted(
        groups,
        key=lambda group: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", group)],
    ), masks


def _has_action(given: Settings, group: Any) -> bool:
    return any(key in group for key in ([given.action] if given.action else ("actions", "action")))


def _shape(given: Settings, place: Place) -> Shape:
    with _open(place.file) as content:
        group = content[place.group]
        actions = group[settings.action_key(given, group, place.name)]
        if not hasattr(actions, "shape") or len(actions.shape) != 2 or not len(actions):
            raise UserError(
                f"{place.name}: the action has shape {getattr(actions, 'shape', 'of a group')}, expected [steps, dims]."
            )
        return Shape(actions.shape[1], tuple(sorted(hdf5_streams.of(group).items())))


def _layout(given: Settings, place: Place, shape: Shape) -> tuple[Layout, ObservationSpec, list[str]]:
    """As the usual episode has it; with notes of what is left out. Scales come later."""
    streams = dict(shape.streams)
    of = lambda *roles: [path for path, stream in streams.items() if stream.role in roles]
    pictures = settings.short_names(of("camera", "refused"), "/", reserved="state")
    refused = {name: streams[path].why for name, path in pictures.items() if streams[path].role == "refused"}
    usable = {name: path for name, path in pictures.items() if name not in refused}
    cameras = settings.cameras(given, usable, refused, place.name)
    vectors = settings.short_names(of("vector"), "/")
    state = settings.choose("--state", given.state, vectors, sorted(vectors), place.name)
    dims = {name: streams[vectors[name]].dims for name in state}
    with _open(place.file) as content:
        found = hdf5_streams.datasets(content[place.group])
        sizes = {
            name: _size(found[usable[name]], streams[usable[name]], f"{place.name}: {name}")
            for name in cameras
        }
        columns = {key: item.shape for key, item in content[place.group].items() if hasattr(item, "shape")}
    action = settings.action_key(given, columns, place.name)
    named = (
        "rewards",
        given.success,
        given.reward,
    )  # of whatever shape: the reader says what is wrong with it
    one_number = sorted(key for key, shape in columns.items() if shape[1:] in ((), (1,)) or key in named)
    success = settings.success_key(given, one_number, "rewards", place.name)
    size = settings.image_size(given, sizes, place.name)
    description = ", ".join(f"{name} ({dim})" for name, dim in dims.items())
    observation = ObservationSpec(tuple(cameras), size, sum(dims.values()), description)
    used = {*(usable[name] for name in cameras), *(vectors[name] for name in state)}
    known = {action, success, given.reward, "rewards", "dones", "compress_len"}
    unused = [path for path in streams if path not in used] + sorted(set(columns) - known)
    layout = Layout(
        {usable[name]: name for name in cameras},
        tuple(vectors[name] for name in state),
        size,
        action,
        success,
        {},
    )
    return layout, observation, [f"not used: {', '.join(unused)}"] if unused else []


def _size(item: Any, stream: Stream, name: str) -> tuple[int, int]:
    """Of encoded frames: that of the first that is whole."""
    if any(stream.size):
        return stream.size
    for frame in hdf5_streams.frames(item, 1.0):
        with contextlib.suppress(UserError):
            return images.size(frame)
    raise UserError(f"{name} has no image that decodes; the file is damaged, copy it again.")


def _floats(layout: Layout, shape: Shape) -> Iterator[tuple[str, Stream]]:
    return ((path, stream) for path, stream in shape.streams if path in layout.cameras and stream.floats)


def _survey(
    given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape
) -> tuple[Recording, dict[str, tuple[float, float]]]:
    """An episode without its images, and the range of those of floats."""
    _compare(given, layout, place, shape, model, usual)
    with _open(place.file) as content:
        recording = _recording(given, layout, content, place)
        check(recording)
        found = hdf5_streams.datasets(content[place.group])
        pixels = {path: np.asarray(found[path]) for path, _ in _floats(layout, shape)}
    return recording, {
        path: (float(np.min(values)), float(np.max(values))) for path, values in pixels.items()
    }


def _compare(given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape) -> None:
    """Raises UserError where an episode is not like the others in what is used of it."""
    if shape.dims != usual.dims:
        raise UserError(
            f"{place.name} has actions of {shape.dims} dims, {model.name} of {usual.dims}; convert each robot by itself."
        )
    ours, theirs = dict(shape.streams), dict(usual.streams)
    for path in (*layout.cameras, *layout.state):
        if path not in ours:
            raise UserError(
                f"{place.name} has no observation {path!r}, which {model.name} has; expected it among {sorted(ours)}: convert files of "
                "another kind by themselves, or choose with --cameras and --state."
            )
        if ours[path] != theirs[path] and (ours[path].role, ours[path].dims) != (
            theirs[path].role,
            theirs[path].dims,
        ):
            raise UserError(
                f"{place.name} has {path!r} as {_told(ours[path])}, {model.name} as {_told(theirs[path])}; leave it out."
            )
    for roles, chosen in ((("camera", "refused"), given.cameras), (("vector",), given.state)):
        more = [path for path, stream in shape.streams if path not in theirs and stream.role in roles]
        if more and chosen is None:
            raise UserError(
                f"{place.name} has an observation {more[0]!r}, which {model.name} has not; convert files of another kind by themselves, or "
                "choose with --cameras and --state."
            )


def _told(stream: Stream) -> str:
    return f"a {stream.role}" + (
        f" of {stream.dims}" if stream.dims else f" ({stream.why})" if stream.why else ""
    )


def _scale(reach: list[tuple[float, float]], name: str) -> float:
    """What brings a camera's floats to 0..255. Raises UserError unless they are from 0 to 1 or from 0 to 255."""
    least, greatest = min(low for low, _ in reach), max(high for _, high in reach)
    if not (least >= 0.0 and greatest <= 255.0):
        raise UserError(
            f"{name} has pixels from {least:g} to {greatest:g}, expected 0 to 1 or 0 to 255; leave it out with --cameras."
        )
    return 255.0 if greatest <= 1.0 else 1.0


def _read(
    given: Settings, layout: Layout, unit: tuple[int, Place]
) -> Iterator[tuple[int, Episode | UserError]]:
    index, place = unit
    try:
        with _open(place.file) as content:
            yield finished(
                place.name, lambda: _recording(given, layout, content, place), index, given.collector
            )
    except UserError as error:
        yield index, error


def _recording(given: Settings, layout: Layout, content: Any, place: Place) -> Recording:
    """Frames are read from `content` while it is open."""
    episode, name = content[place.group], place.name
    observations, following = hdf5_streams.datasets(episode), hdf5_streams.datasets(episode, ("next_obs",))
    actions = np.asarray(episode[layout.action], np.float32)
    has_next = all(path in following for path in (*layout.cameras, *layout.state))
    with_next = lambda path: has_next and len(observations[path]) == len(actions)

    def column(key: str) -> np.ndarray:
        if key not in episode:
            raise UserError(
                f"{name} has no {key!r}, expected it as in the other episodes; it has {sorted(episode)}."
            )
        return per_step(episode[key], key, name)

    def vector(path: str) -> np.ndarray:
        rows = np.asarray(observations[path], np.float32).reshape(len(observations[path]), -1)
        return (
            np.concatenate([rows, np.asarray(following[path][-1:], np.float32).reshape(1, -1)])
            if with_next(path)
            else rows
        )

    def frames(path: str) -> Frames:
        def read(count: int) -> Iterator[bytes]:
            scale = layout.scales.get(path, 1.0)
            shown = hdf5_streams.frames(observations[path], scale)
            if with_next(path):
                shown = itertools.chain(
                    shown, hdf5_streams.frames(following[path], scale, len(following[path]) - 1)
                )
            where = lambda step: f"{name}, step {step}, camera {layout.cameras[path]!r}"
            yield from images.encoded(
                itertools.islice(shown, count), layout.size, given.image_size is not None, where
            )

        return Frames(len(observations[path]) + with_next(path), read)

    vectors = [vector(path) for path in layout.state]
    shown = {name: frames(path) for path, name in layout.cameras.items()}
    count = len(vectors[0]) if vectors else next(iter(shown.values())).count
    if len({len(rows) for rows in vectors}) > 1:
        raise UserError(
            f"{name} has state vectors of {[len(rows) for rows in vectors]} steps, expected one number; leave it out."
        )
    return Recording(
        name=name,
        instruction=_instruction(given, content, episode, name),
        frames=shown,
        state=np.concatenate(vectors, axis=1) if vectors else np.zeros((count, 0), np.float32),
        actions=actions,
        success=outcome(layout.success, column, name),
        rewards=column(given.reward) if given.reward else None,
        dt=1.0 / (given.fps or _frequency(content, episode, name)),
    )


def _attributes(content: Any, episode: Any) -> dict[str, Any]:
    """Of the file, its `data` group and the episode, JSON opened; the nearest to the episode wins."""
    found: dict[str, Any] = {}
    for group in (content, content.get("data", content), episode):
        attributes = dict(group.attrs)
        for key in _JSON:
            if key in attributes:
                found |= json.loads(attributes[key])
        found |= attributes
    return found


def _instruction(given: Settings, content: Any, episode: Any, name: str) -> str:
    attributes = _attributes(content, episode)
    value = next((attributes[key] for key in _INSTRUCTION if key in attributes), "")
    said = (
        "".join(value)
        if isinstance(value, list | tuple)
        else value.decode()
        if isinstance(value, bytes)
        else str(value)
    )
    return settings.instruction(
        given, said, f"{name} has no instruction (an attribute {' or '.join(_INSTRUCTION)})"
    )


def _frequency(content: Any, episode: Any, name: str) -> float:
    attributes = _attributes(content, episode)
    arguments = attributes | attributes.get("env_kwargs", {})
    for key in ("fps", "control_freq"):
        if key in arguments:
            return float(arguments[key])
    raise UserError(
        f"{name} does not say how fast it was recorded (an attribute fps, or control_freq in env_args); give --fps=20."
    )
