"""What becomes of each key of an HDF5 file, and how flags list its episodes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from qt_jax.curation.convert import hdf5_episode, hdf5_streams, keys
from qt_jax.curation.convert.hdf5_episode import Layout, Place
from qt_jax.curation.convert.hdf5_streams import Stream
from qt_jax.curation.convert.keys import Key
from qt_jax.curation.convert.parts import Words
from qt_jax.curation.convert.settings import Settings
from qt_jax.errors import UserError

_KNOWN = {
    "dones": "an episode ends with its rows, or at its success",
    "compress_len": "an image says itself where it ends",
}
"""{key: why nobody needs it}."""


def of(given: Settings, layout: Layout, content: Any, place: Place, streams: dict[str, Stream]) -> list[Key]:
    """Returns what becomes of each key of an episode, and of the attributes that say something of it.

    Args:
        given: of the conversion.
        layout: of all episodes.
        content: the open file.
        place: of the episode.
        streams: {path: stream} of its observations.
    """
    episode = content[place.group]
    observations, others = hdf5_streams.datasets(episode), hdf5_streams.columns(episode)
    state = keys.places("state", ((path, streams[path].dims) for path in layout.state))
    action = keys.action([(key, others[key].shape[1]) for key in layout.action])
    said = hdf5_episode.where_instruction(given, content, episode, place.name)

    def observed(path: str) -> Key:
        stream = streams[path]
        left_out = {"camera": "--cameras leaves it out", "vector": "--state leaves it out"}
        roles = [f"camera {layout.cameras[path]}"] if path in layout.cameras else []
        roles += [state[path]] if path in state else []
        return keys.described(path, _holds(observations[path]), roles, stream.why or left_out[stream.role])

    def column(path: str) -> Key:
        item = others[path]
        roles = keys.roles(given, path, action, layout.success)
        roles += ["the instruction"] if said == path else []
        why = _KNOWN.get(path) or "it is no observation"
        if path not in _KNOWN and hdf5_streams.is_number(item):
            why = keys.why_no_number(given, path, vector=False)
        elif _may_act(path, item):
            why = "it is no observation; --action may name it"
        return keys.described(path, _holds(item), roles, why)

    rows = [*map(observed, observations), *map(column, others)]
    if following := hdf5_streams.datasets(episode, ("next_obs",)):
        whole = all(path in following for path in (*layout.cameras, *layout.state))
        last = ["the observation after the last action"] if whole else []
        rows.append(
            keys.described("next_obs", f"{len(following)} keys", last, "it lacks some of what is used")
        )
    try:
        attributes = hdf5_episode.attributes(content, episode, place.name)
    except UserError:  # one that is no JSON: an error where it is needed
        attributes = {}
    rate = "" if given.fps else hdf5_episode.where_rate(attributes)
    for name in (*hdf5_episode.INSTRUCTION, *hdf5_episode.RATES):
        attribute = f"attribute {name}"
        roles = (
            ["the instruction"] if said == attribute else ["the time of each step"] if rate == name else []
        )
        if name in attributes:
            rows.append(keys.described(attribute, _short(attributes[name]), roles, "it is said elsewhere"))
    return rows


def possible(episode: Any) -> list[Key]:
    """Returns what each dataset of an episode's group may become, for a file that is refused."""
    rows = []
    for path, item in hdf5_streams.datasets(episode).items():
        stream = hdf5_streams.stream(path, item)
        camera, state = stream.role == "camera", stream.role == "vector"
        rows.append(keys.possible(path, _holds(item), stream.why, camera=camera, state=state))
    for path, item in hdf5_streams.columns(episode).items():
        number = hdf5_streams.is_number(item) and path not in _KNOWN
        why_not, action = _KNOWN.get(path, "it is no observation"), _may_act(path, item)
        rows.append(keys.possible(path, _holds(item), why_not, action=action, number=number))
    return rows


def _may_act(path: str, item: Any) -> bool:
    """Returns whether a column may be the action, or a part of it."""
    return item.dtype.kind in "fiub" and len(item.shape or ()) == 2 and path not in _KNOWN


def rare(given: Settings, path: str, holds: str) -> Key:
    """Returns what becomes of a key that most episodes do not have."""
    said = ["the instruction"] if path in hdf5_episode.INSTRUCTION and not given.instruction else []
    return keys.described(path, holds, said, "most episodes have none")


def _holds(item: Any) -> str:
    shape = " x ".join(map(str, (item.shape or ())[1:])) or "1"
    return f"{'bytes or text' if item.dtype.kind in 'OSV' else item.dtype} {shape}"


def _short(value: Any, most: int = 40) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def words(root: Path, places: Collection[Place]) -> Words:
    """Returns how flags list the episodes at `places` below `root`: by file, or file and group.

    The group alone will do where there is one file.
    """
    files = {place.file for place in places}
    names: dict[str, set[Place]] = {}
    for place in places:
        file = Path(place.file)
        label = str(file.with_suffix("").relative_to(root)) if file != root else file.stem
        demo = place.group.removeprefix("data/")
        for name in (label, f"{label}/{demo}", *([demo] if len(files) == 1 else [])):
            names.setdefault(name, set()).add(place)
    return Words("masks", ",".join(sorted(names)[:2]), lambda word: names.get(word, set()))
