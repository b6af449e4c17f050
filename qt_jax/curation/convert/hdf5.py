"""HDF5: files of demonstrations as robomimic writes them, or of one episode each.

The first have `data/demo_0/{obs/*, actions, rewards, dones}`, the second `action` and `observations/*`. The
last observation comes from `next_obs` where that is there; else it is the observation after the last action.
All numbers are read before anything is written.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation.convert import hdf5_episode, hdf5_streams, images, settings
from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.hdf5_episode import Layout, Place, open_file
from qt_jax.curation.convert.hdf5_streams import Stream
from qt_jax.curation.convert.recording import Indexed, Recording, Source, check, finished
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import Skips
from qt_jax.data.names import short_names
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec

SUFFIXES = (".hdf5", ".h5")
_KNOWN = ("dones", "compress_len")
"""Keys that are not used, and not worth a note."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is alike in all episodes: dims of the action, and the stream at each path of the observations."""

    dims: int
    streams: tuple[tuple[str, Stream], ...]


def open_source(given: Settings) -> Source:
    """Opens a file, or all HDF5 files below a folder.

    Most episodes alike are the usual kind; one of another kind is a bad episode.

    Raises:
        UserError: if there is no episode, for more bad episodes than are allowed, or for a setting that names
            what is not there.
    """
    root = Path(given.input)
    files = [root] if root.is_file() else sorted(filter(_is_hdf5, root.rglob("*")))
    if not files:
        raise UserError(
            f"{root} holds no file *{' or *'.join(SUFFIXES)}; expected HDF5 episodes, or another --format."
        )
    for flag, value in (("cut", given.cut), ("tolerance_s", given.tolerance_s)):
        if value:
            raise UserError(
                f"--{flag} is for LeRobot's timestamps and tasks, HDF5 has none of them; leave it out."
            )

    skips = Skips(given.max_skipped)
    notes: list[str] = []
    shapes: dict[Place, Shape] = {}
    for place in list(_places(given, files, skips, notes)):
        if shape := skips.attempt(place.name, functools.partial(_shape, given, place)):
            shapes[place] = shape
    if not shapes:
        raise skips.none_left(str(root))

    usual = collections.Counter(shapes.values()).most_common(1)[0][0]
    model = next(place for place, shape in shapes.items() if shape == usual)
    layout, observation = _layout(given, model, usual, notes)
    layout = dataclasses.replace(layout, scales=_scales(layout, shapes.values()))
    bounds = Bounds([f"a{i}" for i in range(usual.dims)])
    units: list[tuple[int, Place]] = []
    for place, shape in shapes.items():
        survey = functools.partial(_survey, given, layout, place, shape, model, usual)
        if (recording := skips.attempt(place.name, survey)) is not None:
            bounds.add(recording.name, recording.actions)
            units.append((len(units), place))
    if not units:
        raise skips.none_left(str(root))

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


def _is_hdf5(path: Path) -> bool:
    """Returns whether it is an HDF5 file by name, and not what macOS leaves beside one."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _places(given: Settings, files: list[Path], skips: Skips, notes: list[str]) -> Iterator[Place]:
    """Yields the episodes that --split takes, demo_2 before demo_10."""
    taken = everything = 0
    for file in files:
        groups, masks = skips.attempt(str(file), functools.partial(_groups, given, file)) or ((), {})
        chosen = settings.split(given, masks, set(groups), "masks", str(file)) if groups else ()
        taken, everything = taken + len(chosen), everything + len(groups)

        def number(group):
            return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", group)]

        yield from (Place(str(file), group) for group in sorted(chosen, key=number))
    if taken < everything:
        notes.append(f"mask {given.split}: {taken} of {everything} episodes")


def _groups(given: Settings, file: Path) -> tuple[list[str], dict[str, set[str]]]:
    """Returns the episodes of a file, and its masks: {name: episodes}."""
    with open_file(file) as content:
        demos = {f"data/{name}": item for name, item in _items(content, "data")}
        groups = [name for name, item in demos.items() if item is None or hasattr(item, "keys")]
        # One without actions among others with them, or a link that leads nowhere, is a bad episode.
        if not any(_has_action(given, demos[group]) for group in groups):
            groups = ["/"]
        if groups == ["/"] and not _has_action(given, content):
            one, many = given.action or "action", given.action or "actions"
            raise UserError(
                f"{file} has keys {sorted(content)}; expected {one} and observations, or (robomimic) "
                f"data/demo_0/{many}; give --action=KEY."
            )

        masks = {}
        for name, item in _items(content, "mask"):
            listed = np.asarray(item).reshape(-1).tolist()
            masks[name] = {f"data/{demo.decode() if isinstance(demo, bytes) else demo}" for demo in listed}
            if lost := sorted(masks[name] - set(groups)):
                raise UserError(
                    f"{file}: mask/{name} names {lost[0]}, which is not there; mend it, or copy the file "
                    "again."
                )
    return groups, masks


def _items(content: Any, key: str) -> Any:
    """Returns the items of a group, or nothing where it is not there."""
    return content[key].items() if hasattr(content.get(key), "keys") else ()


def _has_action(given: Settings, group: Any) -> bool:
    keys = [given.action] if given.action else ("actions", "action")
    return group is not None and any(key in group for key in keys)


def _shape(given: Settings, place: Place) -> Shape:
    with open_file(place.file) as content:
        group = _group(content, place)
        actions = group[settings.action_key(given, group, place.name)]
        shape = getattr(actions, "shape", None)
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(shape)):
            found = "of a group" if shape is None else shape
            raise UserError(
                f"{place.name}: the action has shape {found}, expected [steps, dims]; give --action=KEY."
            )
        if actions.dtype.kind not in "fiub":
            raise UserError(
                f"{place.name}: the action is {actions.dtype}, expected numbers; give --action=KEY."
            )
        hdf5_streams.columns(group)  # raises for a link that leads nowhere
        return Shape(shape[1], tuple(sorted(hdf5_streams.of(group).items())))


def _group(content: Any, place: Place) -> Any:
    if (group := content.get(place.group)) is None:
        raise UserError(f"{place.name} is a link to what is not there; copy what it links to as well.")
    return group


def _layout(given: Settings, place: Place, shape: Shape, notes: list[str]) -> tuple[Layout, ObservationSpec]:
    """Returns the layout of the usual episode without its scales; adds what is left out to `notes`."""
    streams, name = dict(shape.streams), place.name

    def of(*roles):
        return [path for path, stream in streams.items() if stream.role in roles]

    pictures = short_names(of("camera", "refused"), "/", reserved="state")
    unusable = {short: streams[path] for short, path in pictures.items() if path in of("refused")}
    refused = {short: stream.why for short, stream in unusable.items()}
    usable = {short: path for short, path in pictures.items() if short not in refused}
    cameras = settings.cameras(given, usable, refused, name)
    vectors = short_names(of("vector"), "/")
    state = settings.choose("--state", given.state, vectors, sorted(vectors), name)
    settings.check_observed(cameras, state, streams, name)
    dims = {short: streams[vectors[short]].dims for short in state}
    with open_file(place.file) as content:
        group = content[place.group]
        columns, found = hdf5_streams.columns(group), hdf5_streams.datasets(group)
        sizes = {short: _size(found[usable[short]], f"{name}: {short}") for short in cameras}
    size = settings.image_size(given, sizes, name)
    description = ", ".join(f"{short} ({dim})" for short, dim in dims.items())
    observation = ObservationSpec(tuple(cameras), size, sum(dims.values()), description)

    action = settings.action_key(given, columns, name)
    named = ("rewards", given.success, given.reward)  # of any shape: the reader of them says what is wrong
    per_step = [key for key, shape in columns.items() if shape[1:] in ((), (1,)) or key in named]
    success = settings.success_key(given, sorted(per_step), "rewards", name)
    used = {*(usable[short] for short in cameras), *(vectors[short] for short in state)}
    unused = [path for path in streams if path not in used]
    texts = () if given.instruction else hdf5_episode.INSTRUCTION
    unused += sorted(set(columns) - {action, success, given.reward, *_KNOWN, *texts})
    if unused:
        notes.append(f"not used: {', '.join(unused)}")
    names = {usable[short]: short for short in cameras}
    return Layout(names, tuple(vectors[short] for short in state), size, action, success, {}), observation


def _size(item: Any, name: str) -> tuple[int, int]:
    """Returns (height, width) of the first frame of a camera that is whole."""
    for frame in hdf5_streams.frames(item, 1.0):
        with contextlib.suppress(UserError):
            return images.size(frame)
    raise UserError(f"{name} has no image that decodes; the file is damaged, copy it again.")


def _scales(layout: Layout, shapes: Any) -> dict[str, float]:
    """Returns {path: the usual scale of a camera of floats}."""
    counts: dict[str, collections.Counter] = {path: collections.Counter() for path in layout.cameras}
    for shape in shapes:
        for path, stream in shape.streams:
            if path in counts and stream.scale:
                counts[path][stream.scale] += 1
    return {path: count.most_common(1)[0][0] for path, count in counts.items() if count}


def _survey(
    given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape
) -> Recording:
    """Checks an episode and returns it; its images are not read."""
    _compare(given, layout, place, shape, model, usual)
    with open_file(place.file) as content:
        recording = hdf5_episode.recording(given, layout, content, place)
        check(recording)
    return recording


def _compare(given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape) -> None:
    """Raises UserError where what is used of an episode is not as in the usual one."""
    name, ours, theirs = place.name, dict(shape.streams), dict(usual.streams)
    if shape.dims != usual.dims:
        raise UserError(
            f"{name} has actions of {shape.dims} dims, {model.name} of {usual.dims}; convert each robot by "
            "itself."
        )
    more = [path for path, one in ours.items() if path not in theirs and one.role in _free(given)]
    if lacking := [path for path in (*layout.cameras, *layout.state) if path not in ours]:
        problem = f"has no observation {lacking[0]!r}, which {model.name} has"
    elif more:
        problem = f"has an observation {more[0]!r}, which {model.name} has not"
    else:
        for path in (*layout.cameras, *layout.state):
            one, other = ours[path], theirs[path]
            if (one.role, one.dims) != (other.role, other.dims):
                raise UserError(
                    f"{name} has {path!r} as {one.described()}, {model.name} as {other.described()}; leave "
                    "it out."
                )
            if one.scale and one.scale != layout.scales[path]:
                ours_to, theirs_to = ("1", "255") if one.scale == 255.0 else ("255", "1")
                raise UserError(
                    f"{name} has pixels of {path!r} from 0 to {ours_to}, others to {theirs_to}; leave it out."
                )
        return
    raise UserError(
        f"{name} {problem}; convert files of another kind by themselves, or choose with --cameras and "
        "--state."
    )


def _free(given: Settings) -> tuple[str, ...]:
    """Returns the roles of which all streams are used, because no flag chooses among them."""
    return ("camera", "refused") * (given.cameras is None) + ("vector",) * (given.state is None)


def _read(given: Settings, layout: Layout, unit: tuple[int, Place]) -> Iterator[Indexed]:
    index, place = unit
    try:
        with open_file(place.file) as content:
            read = functools.partial(hdf5_episode.recording, given, layout, content, place)
            yield finished(place.name, read, index, given.collector)
    except UserError as error:
        yield index, error
