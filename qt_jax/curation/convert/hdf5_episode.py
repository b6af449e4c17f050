"""One episode of an HDF5 file, as a recording."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.curation.convert import hdf5_streams, images, settings
from qt_jax.curation.convert.recording import Frames, Recording, outcome, per_step
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import naming
from qt_jax.errors import UserError

INSTRUCTION = ("language_instruction", "instruction", "lang", "task_description")
_JSON = ("problem_info", "ep_meta", "env_args")
"""Attributes that hold JSON: LIBERO's, robocasa's and robomimic's."""


@dataclasses.dataclass(frozen=True)
class Place:
    """An episode: a group of a file."""

    file: str
    group: str

    @property
    def name(self) -> str:
        """As messages begin."""
        return f"{self.file}: {self.group}"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a worker needs to read any episode.

    Attributes:
        cameras: {path: name in the dataset}.
        state: paths of the vectors that are joined to the state.
        size: (height, width) of all images in the dataset.
        action: the key of the action.
        success: "all", "none", or the key of success.
        scales: {path: factor that brings a camera of floats to 0..255}.
    """

    cameras: dict[str, str]
    state: tuple[str, ...]
    size: tuple[int, int]
    action: str
    success: str
    scales: dict[str, float]


def open_file(file: str | Path) -> Any:
    """Opens an HDF5 file; raises a UserError that names it where that fails."""
    import h5py

    return naming(str(file), lambda: h5py.File(file, "r"))


def recording(given: Settings, layout: Layout, content: Any, place: Place) -> Recording:
    """Returns an episode; its frames are read later, from `content`, which must stay open.

    Raises:
        UserError: for a column that is missing or of another shape, or where nothing says the instruction or
            how fast the episode was recorded.
    """
    episode, name = content[place.group], place.name
    observations = hdf5_streams.datasets(episode)
    following = hdf5_streams.datasets(episode, ("next_obs",))
    actions = np.asarray(episode[layout.action], np.float32)
    has_next = all(path in following for path in (*layout.cameras, *layout.state))

    def with_next(path):
        return has_next and len(observations[path]) == len(actions)

    def column(key: str) -> np.ndarray:
        if key not in episode:
            raise UserError(
                f"{name} has no {key!r}, expected it as in the other episodes; it has {sorted(episode)}."
            )
        return per_step(episode[key], key, name)

    def vector(path: str) -> np.ndarray:
        rows = np.asarray(observations[path], np.float32).reshape(len(observations[path]), -1)
        if not with_next(path):
            return rows
        return np.concatenate([rows, np.asarray(following[path][-1:], np.float32).reshape(1, -1)])

    def frames(path: str) -> Frames:
        scale = layout.scales.get(path, 1.0)

        def where(step):
            return f"{name}, step {step}, camera {layout.cameras[path]!r}"

        def read(count: int) -> Iterator[bytes]:
            shown = hdf5_streams.frames(observations[path], scale)
            if with_next(path):
                last = hdf5_streams.frames(following[path], scale, len(following[path]) - 1)
                shown = itertools.chain(shown, last)
            resize = given.image_size is not None
            yield from images.encoded(itertools.islice(shown, count), layout.size, resize, where)

        return Frames(len(observations[path]) + with_next(path), read)

    vectors = [vector(path) for path in layout.state]
    shown = {camera: frames(path) for path, camera in layout.cameras.items()}
    counts = [len(rows) for rows in vectors] or [next(iter(shown.values())).count]
    if len(set(counts)) > 1:
        raise UserError(
            f"{name} has state vectors of {counts} steps, expected one number; leave some out with --state."
        )
    return Recording(
        name=name,
        instruction=_instruction(given, content, episode, name),
        frames=shown,
        state=np.concatenate(vectors, axis=1) if vectors else np.zeros((counts[0], 0), np.float32),
        actions=actions,
        success=outcome(layout.success, column, name),
        rewards=column(given.reward) if given.reward else None,
        dt=1.0 / (given.fps or _frequency(content, episode, name)),
    )


def _attributes(content: Any, episode: Any, name: str) -> dict[str, Any]:
    """Returns the attributes of the file, its `data` group and the episode, with JSON parsed.

    Where two have the same name, the one nearest to the episode is taken.
    """
    found: dict[str, Any] = {}
    for group in (content, content.get("data", content), episode):
        attributes = dict(group.attrs)
        for key in _JSON:
            if key in attributes:
                found |= _opened(attributes[key], key, name)
        found |= attributes
    return found


def _opened(value: Any, key: str, name: str) -> dict[str, Any]:
    try:
        opened = json.loads(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the attribute {key} is no JSON ({error}); mend it, or leave it out and give "
            "--instruction and --fps."
        ) from error
    return opened if isinstance(opened, dict) else {}


def _instruction(given: Settings, content: Any, episode: Any, name: str) -> str:
    """Returns what a dataset of the episode says, one text or one a step, or else an attribute."""
    texts: list[str] = []
    if not given.instruction:
        stored = instruction(episode)
        attributes = _attributes(content, episode, name) if stored is None else {}
        values = [attributes.get(key) for key in INSTRUCTION] if stored is None else [stored]
        texts = next(filter(None, map(_texts, values)), [])
    for step, (before, after) in enumerate(itertools.pairwise(texts), start=1):
        if after != before:
            raise UserError(
                f"{name}, step {step}: its instruction changes from {before!r} to {after!r}, expected one an "
                "episode; --instruction='...' gives all episodes the same."
            )
    why = f"{name} has no instruction (an attribute or a text {' or '.join(INSTRUCTION)})"
    return settings.instruction(given, texts[0] if texts else "", why)


def instruction(episode: Any) -> Any | None:
    """Returns what an episode's dataset of texts holds; None where it has none."""
    for key in INSTRUCTION:
        item = episode.get(key)
        if getattr(item, "dtype", None) is not None and item.dtype.kind in "OS":
            return item[()]
    return None


def _texts(value: Any) -> list[str]:
    """Returns the texts of an attribute, a dataset or JSON; single letters are joined to one text."""
    values = np.asarray([] if value is None else value, object).reshape(-1).tolist()
    texts = [one.decode() if isinstance(one, bytes) else one for one in values]
    texts = [text.strip() for text in texts if isinstance(text, str)]
    return ["".join(texts)] if all(len(text) < 2 for text in texts) and texts else texts


def _frequency(content: Any, episode: Any, name: str) -> float:
    attributes = _attributes(content, episode, name)
    inner = attributes.get("env_kwargs")
    arguments = attributes | (inner if isinstance(inner, dict) else {})
    for key in ("fps", "control_freq"):
        if key in arguments:
            return _positive(arguments[key], key, name)
    raise UserError(
        f"{name} does not say how fast it was recorded (an attribute fps, or control_freq in env_args); give "
        "--fps=20."
    )


def _positive(value: Any, key: str, name: str) -> float:
    try:
        hertz = float(np.squeeze(value))
    except (TypeError, ValueError):
        hertz = np.nan
    if not 0.0 < hertz < np.inf:
        raise UserError(f"{name} has {key} {value}, expected a number above 0; mend it or give --fps=20.")
    return hertz
