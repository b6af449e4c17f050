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
import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation.convert import hdf5_episode, hdf5_keys, hdf5_streams, images, parts, settings
from qt_jax.curation.convert.action_space import Movements
from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.hdf5_episode import Layout, Place, open_file
from qt_jax.curation.convert.hdf5_streams import Stream
from qt_jax.curation.convert.keys import Key, told
from qt_jax.curation.convert.parts import Parts
from qt_jax.curation.convert.recording import Indexed, Recording, Source, check, finished
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import Skips, naming
from qt_jax.data.names import short_names
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec

SUFFIXES = (".hdf5", ".h5")
Unit = tuple[Place, tuple[tuple[int, int], ...]]
"""An episode, and (place in the dataset, number) of its recordings that are good."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is alike in all episodes: dims of the action's keys, the stream at each path of the observations.

    The paths of the other columns may differ.
    """

    dims: tuple[int, ...]
    streams: tuple[tuple[str, Stream], ...]
    columns: tuple[str, ...] = dataclasses.field(compare=False)


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
    for flag, value in (("cut=gap", "gap" in given.cut), ("tolerance_s", given.tolerance_s)):
        if value:
            raise UserError(f"--{flag} is for LeRobot's timestamps, HDF5 has none of them; leave it out.")

    skips = Skips(given.max_skipped)
    chosen, places = _places(given, root, files, skips)
    shapes: dict[Place, Shape] = {}
    for place in places:
        if shape := skips.attempt(place.name, functools.partial(_shape, given, place)):
            shapes[place] = shape
    if not shapes:
        raise skips.none_left(str(root))

    most = collections.Counter(shapes.values()).most_common(1)[0][0]
    model, usual = next((place, shape) for place, shape in shapes.items() if shape == most)
    with told(lambda: _possible(model)):
        layout, observation, keys = _layout(given, model, usual)
    layout = dataclasses.replace(layout, scales=_scales(layout, shapes.values()))
    names = settings.action_names(given, [f"a{i}" for i in range(sum(usual.dims))])
    entries = [str(entry) for entry in range(observation.state_dim)]
    bounds, index = Bounds(names, Movements(names, entries, given.action_state)), itertools.count()
    units: list[Unit] = []
    for place, shape in shapes.items():
        survey = functools.partial(_survey, given, layout, place, shape, model, usual)
        good = []
        with told(lambda: keys):
            for number, recording in enumerate(skips.attempt(place.name, survey) or ()):
                if skips.attempt(recording.name, functools.partial(check, recording)):
                    bounds.add(recording.name, recording.actions, recording.state, recording.first)
                    good.append((next(index), number))
        if good:
            units.append((place, tuple(good)))
    training = [unit for unit in units if unit[0] in chosen.training]
    validation = tuple(unit for unit in units if unit[0] in chosen.validation)
    if not training or (chosen.validation and not validation):
        raise skips.none_left(str(root))

    return Source(
        units=training,
        validation=validation,
        episodes=sum(len(good) for _, good in units),
        read=functools.partial(_read, given, layout),
        bounds=bounds,
        observation=observation,
        description=f"Converted from HDF5, {root.name}",
        keys=(*keys, *_rare(given, shapes.values(), usual), *parts.rows(chosen, "mask/")),
        notes=tuple(bounds.warnings()),
        skips=skips,
        spaces=bounds.spaces(),
    )


def _is_hdf5(path: Path) -> bool:
    """Returns whether it is an HDF5 file by name, and not what macOS leaves beside one."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _places(given: Settings, root: Path, files: list[Path], skips: Skips) -> tuple[Parts, list[Place]]:
    """Returns the episodes that --split and --validation take, demo_2 before demo_10."""
    everything: list[Place] = []
    masks: dict[str, set[Place]] = {}
    lacking: dict[str, Path] = {}
    for file in files:
        groups, own = skips.attempt(str(file), functools.partial(_groups, given, file)) or ([], {})
        everything += [Place(str(file), group) for group in sorted(groups, key=_by_number)]
        for mask, listed in own.items():
            masks.setdefault(mask, set()).update(Place(str(file), group) for group in listed)
        lacking |= {flag: file for flag in (given.split, given.validation) if groups and flag not in own}
    for mask in lacking.keys() & masks.keys():
        raise UserError(
            f"{lacking[mask]} has no mask/{mask}, which another file has; convert it by itself, or list the "
            "episodes."
        )
    if not everything:
        raise skips.none_left(str(root))
    words = hdf5_keys.words(root, everything)
    chosen = parts.choose(given, masks, set(everything), words, str(root))
    return chosen, [place for place in everything if place in chosen.written]


def _by_number(group: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", group)]


def _groups(given: Settings, file: Path) -> tuple[list[str], dict[str, set[str]]]:
    """Returns the episodes of a file, and its masks: {name: episodes}."""
    with open_file(file) as content:
        demos = {f"data/{name}": item for name, item in _items(content, "data")}
        groups = [name for name, item in demos.items() if item is None or hasattr(item, "keys")]
        # One without actions among others with them, or a link that leads nowhere, is a bad episode.
        if not any(_has_action(given, demos[group]) for group in groups):
            groups = ["/"]
        if groups == ["/"] and not _has_action(given, content):
            named = " and ".join(given.action)
            one, many = named or "action", named or "actions"
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
    return group is not None and any(key in group for key in given.action or ("actions", "action"))


def _shape(given: Settings, place: Place) -> Shape:
    with open_file(place.file) as content:
        group = _group(content, place)
        dims = [_dims(group[key], key, place) for key in settings.action_keys(given, group, place.name)]
        columns = tuple(hdf5_streams.columns(group))
        return Shape(tuple(dims), tuple(sorted(hdf5_streams.of(group).items())), columns)


def _dims(actions: Any, key: str, place: Place) -> int:
    """Returns the dims of a key of the action; raises a UserError where it cannot be one."""
    shape = getattr(actions, "shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(shape)):
        found = "of a group" if shape is None else shape
        raise UserError(
            f"{place.name}: the action {key!r} has shape {found}, expected [steps, dims]; give --action=KEY."
        )
    if actions.dtype.kind not in "fiub":
        raise UserError(
            f"{place.name}: the action {key!r} is {actions.dtype}, expected numbers; give --action=KEY."
        )
    return shape[1]


def _group(content: Any, place: Place) -> Any:
    if (group := content.get(place.group)) is None:
        raise UserError(f"{place.name} is a link to what is not there; copy what it links to as well.")
    return group


def _possible(place: Place) -> list[Key]:
    with open_file(place.file) as content:
        return hdf5_keys.possible(content[place.group])


def _layout(given: Settings, place: Place, shape: Shape) -> tuple[Layout, ObservationSpec, list[Key]]:
    """Returns the layout of the usual episode without its scales, and what becomes of each of its keys."""
    streams, name = dict(shape.streams), place.name

    def of(*roles):
        return [path for path, stream in streams.items() if stream.role in roles]

    pictures = settings.camera_names(given, of("camera", "refused"), "/", name)
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
        found = hdf5_streams.datasets(group)
        shapes = {path: item.shape or () for path, item in hdf5_streams.columns(group).items()}
        sizes = {short: _size(found[usable[short]], f"{name}: {short}") for short in cameras}
    size = settings.image_size(given, sizes, name)
    description = ", ".join(f"{short} ({dim})" for short, dim in dims.items())
    observation = ObservationSpec(tuple(cameras), size, sum(dims.values()), description)

    action = settings.action_keys(given, shapes, name)
    named = ("rewards", given.success, given.reward)  # of any shape: the reader of them says what is wrong
    per_step = [key for key, one in shapes.items() if one[1:] in ((), (1,)) or key in named]
    success = settings.success_key(given, sorted(per_step), "rewards", name)
    names = {usable[short]: short for short in cameras}
    layout = Layout(names, tuple(vectors[short] for short in state), size, action, success, {})
    with open_file(place.file) as content:
        return layout, observation, hdf5_keys.of(given, layout, content, place, streams)


def _rare(given: Settings, shapes: Collection[Shape], usual: Shape) -> list[Key]:
    """Returns what becomes of the keys that some episodes have, but not the usual one."""
    paths = (path for shape in shapes for path in (*dict(shape.streams), *shape.columns))
    counts = collections.Counter(paths)
    for path in (*dict(usual.streams), *usual.columns):
        del counts[path]
    return [
        hdf5_keys.rare(given, path, f"in {count} of {len(shapes)} episodes") for path, count in counts.items()
    ]


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
) -> list[Recording]:
    """Returns an episode's recordings, if it is as the usual one; their images are not read."""
    _compare(given, layout, place, shape, model, usual)
    with open_file(place.file) as content:
        return hdf5_episode.recordings(given, layout, content, place)


def _in_words(dims: tuple[int, ...]) -> str:
    return " + ".join(map(str, dims))


def _compare(given: Settings, layout: Layout, place: Place, shape: Shape, model: Place, usual: Shape) -> None:
    """Raises UserError where what is used of an episode is not as in the usual one."""
    name, ours, theirs = place.name, dict(shape.streams), dict(usual.streams)
    if shape.dims != usual.dims:
        raise UserError(
            f"{name} has actions of {_in_words(shape.dims)} dims, {model.name} of {_in_words(usual.dims)}; "
            "convert each robot by itself."
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


def _read(given: Settings, layout: Layout, unit: Unit) -> Iterator[Indexed]:
    place, good = unit
    try:
        with open_file(place.file) as content:
            read = functools.partial(hdf5_episode.recordings, given, layout, content, place)
            found = naming(place.name, read)
            for index, number in good:
                yield finished(
                    place.name, functools.partial(found.__getitem__, number), index, given.collector
                )
    except UserError as error:
        for index, _ in good:
            yield index, error
