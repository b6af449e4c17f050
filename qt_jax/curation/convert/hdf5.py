"""HDF5: files of demonstrations as robomimic has them (`data/demo_0/{obs/*, actions, rewards, dones}`), or of
one episode each (`action`, `observations/*`).

The last observation is taken from `next_obs` where that is there, or is the observation that follows the last
action. All numbers are read before anything is written.
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
from qt_jax.curation.convert.recording import Episode, Recording, Source, check, finished
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import Skips
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec

SUFFIXES = (".hdf5", ".h5")
_KNOWN = ("dones", "compress_len")
"""What says nothing that is not known otherwise."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is the same in all episodes: dims of the action, and what stands at each path of the
    observations.
    """

    dims: int
    streams: tuple[tuple[str, Stream], ...]


def open_source(given: Settings) -> Source:
    root = Path(given.input)
    files = [root] if root.is_file() else sorted(filter(_is_ours, root.rglob("*")))
    if not files:
        raise UserError(
            f"{root} holds no file *{' or *'.join(SUFFIXES)}; expected HDF5 episodes, or another --format."
        )
    for flag, value in (("cut", given.cut), ("tolerance_s", given.tolerance_s)):
        if value:
            raise UserError(
                f"--{flag} is for LeRobot's timestamps and tasks, HDF5 has none of them; leave it out."
            )
    skips, notes = Skips(given.max_skipped), []
    places = list(_places(given, files, skips, notes))
    shapes = {place: skips.attempt(place.name, functools.partial(_shape, given, place)) for place in places}
    shapes = {place: shape for place, shape in shapes.items() if shape}
    if not shapes:
        raise skips.none_left(str(root))

    usual = collections.Counter(shapes.values()).most_common(1)[0][0]
    model = next(place for place, shape in shapes.items() if shape == usual)
    layout, observation = _layout(given, model, usual, notes)
    layout = dataclasses.replace(layout, scales=_scales(layout, shapes.values()))
    bounds, units = Bounds([f"a{i}" for i in range(usual.dims)]), []
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


def _is_ours(path: Path) -> bool:
    """Not what macOS leaves beside a file."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _places(given: Settings, files: list[Path], skips: Skips, notes: list[str]) -> Iterator[Place]:
    """The episodes that --split takes, demo_2 before demo_10."""
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
    """The episodes of a file, and its masks."""
    with open_file(file) as content:
        demos = {f"data/{name}": item for name, item in _items(content, "data")}
        groups = [name for name, item in demos.items() if item is None or hasattr(item, "keys")]
        # One without actions among others with them, or a link that leads nowhere, is a bad episode.
        if not any(_has_action(given, demos[group]) for group in groups):
            groups = ["/"]
        if groups == ["/"] and not _has_action(given, content):
            wanted = given.action or "action", given.action or "actions"
            raise UserError(
                f"{file} has keys {sorted(content)}; expected {wanted[0]} and observations, or (robomimic) "
                f"data/demo_0/{wanted[1]}; give --action=KEY."
            )
        masks = {}
        for name, item in _items(content, "mask"):
            demos = np.asarray(item).reshape(-1).tolist()
            masks[name] = {f"data/{demo.decode() if isinstance(demo, bytes) else demo}" for demo in demos}
            if lost := sorted(masks[name] - set(groups)):
                raise UserError(
                    f"{file}: mask/{name} names {lost[0]}, which is not there; mend it, or copy the file "
                    "again."
                )
    return groups, masks


def _items(content: Any, key: str) -> Any:
    """Of a group that may not be there."""
    return content[key].items() if hasattr(content.get(key), "keys") else ()


def _has_action(given: Settings, group: Any) -> bool:
    keys = [given.action] if given.action else ("actions", "action")
    return group is not None and any(key in group for key in keys)


def _shape(given: Settings, place: Place) -> Shape:
    with open_file(place.file) as content:
        group = _group(content, place)
        actions = group[settings.action_key(given, group, place.name)]
        shape = getattr(actions, "shape", "of a group")
        if len(shape) != 2 or not all(shape):
            raise UserError(
                f"{place.name}: the action has shape {shape}, expected [steps, dims]; give --action=KEY."
            )
        if actions.dtype.kind not in "fiub":
            raise UserError(
                f"{place.name}: the action is {actions.dtype}, expected numbers; give --action=KEY."
            )
        hdf5_streams.columns(group)  # whose links lead somewhere
        return Shape(shape[1], tuple(sorted(hdf5_streams.of(group).items())))


def _group(content: Any, place: Place) -> Any:
    if (group := content.get(place.group)) is None:
        raise UserError(f"{place.name} is a link to what is not there; copy what it links to as well.")
    return group


def _layout(given: Settings, place: Place, shape: Shape, notes: list[str]) -> tuple[Layout, ObservationSpec]:
    """As the usual episode has it, but for the scales; what is left out is added to `notes`."""
    streams, name = dict(shape.streams), place.name

    def of(*roles):
        return [path for path, stream in streams.items() if stream.role in roles]

    pictures = settings.short_names(of("camera", "refused"), "/", reserved="state")
    refused = {
        short: streams[path].why for short, path in pictures.items() if streams[path].role == "refused"
    }
    usable = {short: path for short, path in pictures.items() if short not in refused}
    cameras = settings.cameras(given, usable, refused, name)
    vectors = settings.short_names(of("vector"), "/")
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
    named = ("rewards", given.success, given.reward)  # of whatever shape: who reads them says what is wrong
    per_step = [key for key, shape in columns.items() if shape[1:] in ((), (1,)) or key in named]
    success = settings.success_key(given, sorted(per_step), "rewards", name)
    used = {*(usable[short] for short in cameras), *(vectors[short] for short in state)}
    unused = [path for path in streams if path not in used]
    told = () if given.instruction else hdf5_episode.INSTRUCTION
    unused += sorted(set(columns) - {action, success, given.reward, *_KNOWN, *told})
    if unused:
        notes.append(f"not used: {', '.join(unused)}")
    names = {usable[short]: short for short in cameras}
    return Layout(names, tuple(vectors[short] for short in state), size, action, success, {}), observation


def _size(item: Any, name: str) -> tuple[int, int]:
    """Of a camera's frames: that of the first that is whole."""
    for frame in hdf5_streams.frames(item, 1.0):
        with contextlib.suppress(UserError):
            return images.size(frame)
    raise UserError(f"{name} has no image that decodes; the file is damaged, copy it again.")


def _scales(layout: Layout, shapes: Any) -> dict[str, float]:
    """{path: the usual scale of a camera of floats}."""
    counts: dict[str, collections.Counter] = {path: collections.Counter() for path in layout.cameras}
    for shape in shapes:
        for path, stream in shape.streams:
            if path in counts and stream.scale:
                counts[path][stream.scale] += 1
    return {path: count.most_common(1)[0][0] for path, count in counts.items() if count}


def _survey(
    given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape
) -> Recording:
    """An episode, whose images are not read."""
    _compare(given, layout, place, shape, model, usual)
    with open_file(place.file) as content:
        recording = hdf5_episode.recording(given, layout, content, place)
        check(recording)
    return recording


def _compare(given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape) -> None:
    """Raises UserError where an episode is not like the usual one in what is used of it."""
    name, ours, theirs = place.name, dict(shape.streams), dict(usual.streams)
    if shape.dims != usual.dims:
        raise UserError(
            f"{name} has actions of {shape.dims} dims, {model.name} of {usual.dims}; convert each robot by "
            "itself."
        )
    more = [path for path, one in ours.items() if path not in theirs and one.role in _free(given)]
    if lacking := [path for path in (*layout.cameras, *layout.state) if path not in ours]:
        told = f"has no observation {lacking[0]!r}, which {model.name} has"
    elif more:
        told = f"has an observation {more[0]!r}, which {model.name} has not"
    else:
        for path in (*layout.cameras, *layout.state):
            one, other = ours[path], theirs[path]
            if (one.role, one.dims) != (other.role, other.dims):
                raise UserError(
                    f"{name} has {path!r} as {one.told()}, {model.name} as {other.told()}; leave it out."
                )
            if one.scale and one.scale != layout.scales[path]:
                reach, usual_reach = (
                    "1" if scale == 255.0 else "255" for scale in (one.scale, layout.scales[path])
                )
                raise UserError(
                    f"{name} has pixels of {path!r} from 0 to {reach}, others to {usual_reach}; leave it out."
                )
        return
    raise UserError(
        f"{name} {told}; convert files of another kind by themselves, or choose with --cameras and --state."
    )


def _free(given: Settings) -> tuple[str, ...]:
    """Roles of which all that is there is asked for."""
    return ("camera", "refused") * (given.cameras is None) + ("vector",) * (given.state is None)


def _read(
    given: Settings, layout: Layout, unit: tuple[int, Place]
) -> Iterator[tuple[int, Episode | UserError]]:
    index, place = unit
    try:
        with open_file(place.file) as content:
            read = functools.partial(hdf5_episode.recording, given, layout, content, place)
            yield finished(place.name, read, index, given.collector)
    except UserError as error:
        yield index, error
