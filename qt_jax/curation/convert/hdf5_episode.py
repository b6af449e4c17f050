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
from qt_jax.curation.convert.recording import Frames, Recording, outcome, part, per_step, turned
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import naming
from qt_jax.errors import UserError

INSTRUCTION = ("language_instruction", "instruction", "lang", "task_description")
RATES = ("fps", "control_freq")
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

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a worker needs to read any episode.

    Attributes:
        cameras: {path: name in the dataset}.
        state: paths of the vectors that are joined to the state.
        size: (height, width) of all images in the dataset.
        action: keys that are joined to the action.
        success: "all", "none", or the key of success.
        scales: {path: factor that brings a camera of floats to 0..255}.
    """

    cameras: dict[str, str]
    state: tuple[str, ...]
    size: tuple[int, int]
    action: tuple[str, ...]
    success: str
    scales: dict[str, float]


def open_file(file: str | Path) -> Any:
    """Opens an HDF5 file; raises a UserError that names it where that fails."""
    import h5py

    return naming(str(file), lambda: h5py.File(file, "r"))


def recordings(given: Settings, layout: Layout, content: Any, place: Place) -> list[Recording]:
    """Returns an episode: one recording, or with --cut=instruction one for each part with an instruction.

    Their frames are read later, from `content`, which must stay open.

    Raises:
        UserError: for a column that is missing or of another shape, or where nothing says the instruction or
            how fast the episode was recorded.
    """
    whole, texts = _recording(given, layout, content, place)
    changes = [step for step in range(1, len(texts)) if texts[step] != texts[step - 1]]
    if not changes:
        return [whole]
    name, step, steps = place.name, changes[0], len(whole.actions)
    if "instruction" not in given.cut:
        raise UserError(
            f"{name}, step {step}: its instruction changes from {texts[step - 1]!r} to {texts[step]!r}, "
            "expected one an episode. --cut=instruction makes an episode of each part, --instruction='...' "
            "gives all episodes the same."
        )
    if len(texts) not in (steps, steps + 1):
        raise UserError(
            f"{name} has {len(texts)} instructions and {steps} actions, expected one for each action to cut "
            "it there; give --instruction='...' for all episodes."
        )
    edges = [0, *(step for step in changes if step < steps), steps]
    said = (settings.instruction(given, texts[start], f"{name} has no instruction") for start in edges[:-1])
    return [part(whole, start, stop, text) for start, stop, text in zip(edges, edges[1:], said)]


def _recording(given: Settings, layout: Layout, content: Any, place: Place) -> tuple[Recording, list[str]]:
    """Returns an episode with its first instruction, and all that it has: none, one, or one a step."""
    episode, name = content[place.group], place.name
    observations = hdf5_streams.datasets(episode)
    following = hdf5_streams.datasets(episode, ("next_obs",))
    columns = [np.asarray(episode[key], np.float32) for key in layout.action]
    if len({len(rows) for rows in columns}) > 1:
        found = ", ".join(f"{len(rows)} of {key}" for key, rows in zip(layout.action, columns, strict=True))
        raise UserError(f"{name} has actions that end apart ({found}); leave one out with --action.")
    actions = np.concatenate(columns, axis=1)
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
            resize, bgr = given.image_size is not None, layout.cameras[path] in given.bgr
            yield from images.encoded(itertools.islice(shown, count), layout.size, resize, bgr, where)

        return Frames(len(observations[path]) + with_next(path), read)

    vectors = [vector(path) for path in layout.state]
    shown = {camera: frames(path) for path, camera in layout.cameras.items()}
    counts = [len(rows) for rows in vectors] or [next(iter(shown.values())).count]
    if len(set(counts)) > 1:
        raise UserError(
            f"{name} has state vectors of {counts} steps, expected one number; leave some out with --state."
        )
    texts = [] if given.instruction else _said(content, episode, name)[1]
    why = f"{name} has no instruction (an attribute or a text {' or '.join(INSTRUCTION)})"
    whole = Recording(
        name=name,
        instruction=settings.instruction(given, texts[0] if texts else "", why),
        frames=shown,
        state=np.concatenate(vectors, axis=1) if vectors else np.zeros((counts[0], 0), np.float32),
        actions=actions,
        success=outcome(layout.success, column, name),
        rewards=column(given.reward) if given.reward else None,
        dt=1.0 / (given.fps or _frequency(content, episode, name)),
        intervention=column(given.intervention) if given.intervention else None,
    )
    return turned(whole, given.turn), texts


def attributes(content: Any, episode: Any, name: str) -> dict[str, Any]:
    """Returns the attributes of the file, its `data` group and the episode, with JSON parsed.

    Where two have the same name, the one nearest to the episode is taken.
    """
    found: dict[str, Any] = {}
    for group in (content, content.get("data", content), episode):
        own = dict(group.attrs)
        for key in _JSON:
            if key in own:
                found |= _opened(own[key], key, name)
        found |= own
    return found


def _opened(value: Any, key: str, name: str) -> dict[str, Any]:
    try:
        opened = json.loads(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the attribute {key} is no JSON ({error}); mend it, or leave it out and give "
            "--instruction and --fps."
        ) from error
    opened = opened if isinstance(opened, dict) else {}
    inner = opened.get("env_kwargs")
    return opened | (inner if isinstance(inner, dict) else {})


def where_instruction(given: Settings, content: Any, episode: Any, name: str) -> str:
    """Returns the key of the instruction, "attribute KEY", or "" where nothing or a flag says it."""
    return "" if given.instruction else _said(content, episode, name)[0]


def _said(content: Any, episode: Any, name: str) -> tuple[str, list[str]]:
    """Returns where the instruction stands, and the texts: of a dataset, or else of an attribute."""
    for key in INSTRUCTION:
        item = episode.get(key)
        if getattr(item, "dtype", None) is not None and item.dtype.kind in "OS":
            return key, _texts(item[()])
    found = attributes(content, episode, name)
    for key in INSTRUCTION:
        if texts := _texts(found.get(key)):
            return f"attribute {key}", texts
    return "", []


def _texts(value: Any) -> list[str]:
    """Returns the texts of an attribute, a dataset or JSON; single letters are joined to one text."""
    values = np.asarray([] if value is None else value, object).reshape(-1).tolist()
    texts = [one.decode() if isinstance(one, bytes) else one for one in values]
    texts = [text.strip() for text in texts if isinstance(text, str)]
    return ["".join(texts)] if all(len(text) < 2 for text in texts) and texts else texts


def where_rate(found: dict[str, Any]) -> str:
    """Returns which of the attributes says how fast an episode was recorded; "" where none does."""
    return next((key for key in RATES if key in found), "")


def _frequency(content: Any, episode: Any, name: str) -> float:
    found = attributes(content, episode, name)
    if key := where_rate(found):
        return _positive(found[key], key, name)
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
