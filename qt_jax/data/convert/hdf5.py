"""HDF5: files of demonstrations as robomimic has them (`data/demo_0/{obs/*, actions, rewards, dones}`), or of one episode each
(`action`, `observations/*`).

The last observation is taken from `next_obs` where that is there, or is the observation that follows the last action.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data.convert import images
from qt_jax.data.convert.recording import (
    Episode,
    Recording,
    Settings,
    Source,
    action_spec,
    choose,
    finished,
    image_size,
    naming,
    outcome,
    success_key,
)
from qt_jax.errors import UserError
from qt_jax.specs import ObservationSpec

SUFFIXES = (".hdf5", ".h5")
_INSTRUCTION = ("language_instruction", "instruction", "lang", "task_description")
_JSON = ("problem_info", "ep_meta", "env_args")
"""Attributes that hold JSON: LIBERO's, robocasa's and robomimic's."""


def open_source(settings: Settings) -> Source:
    root = Path(settings.input)
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    if not files:
        raise UserError(f"{root} holds no file *{' or *'.join(SUFFIXES)}; expected HDF5 episodes, or give another --format.")
    units, low, high = [], [], []
    for file in files:
        with _open(file) as content:
            for group in _episodes(content, file):
                actions = content[group][_action(content[group])]
                if actions.ndim != 2 or not len(actions):
                    raise UserError(f"{file}: {actions.name} has shape {actions.shape}, expected [steps, dims].")
                low.append(np.min(actions, axis=0))
                high.append(np.max(actions, axis=0))
                units.append((len(units), str(file), group))
    if len({len(bound) for bound in low}) > 1:
        raise UserError(f"{root} has actions of {sorted({len(bound) for bound in low})} dims; convert each robot's episodes by themselves.")
    with _open(files[0]) as content:
        cameras, state, observation = _observation(settings, content[units[0][2]], files[0])
        per_step = sorted(key for key, item in content[units[0][2]].items() if hasattr(item, "shape") and item.ndim == 1)
    key = success_key(settings, per_step, "rewards", str(files[0]))
    names = [f"a{i}" for i in range(len(low[0]))]
    read = functools.partial(_read, settings, tuple(cameras), tuple(state), observation.image_size, key)
    action = action_spec(names, np.min(low, axis=0), np.max(high, axis=0))
    return Source(units, len(units), read, action, observation, f"Converted from HDF5, {root.name}")


def _open(file: Path) -> Any:
    import h5py

    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise UserError(f"{file} cannot be opened ({str(error)[:200]}); the file is damaged or no HDF5, copy it again.") from error


def _episodes(content: Any, file: Path) -> list[str]:
    """The groups of a file that are episodes, demo_2 before demo_10."""
    groups = [f"data/{name}" for name, item in content.get("data", {}).items() if hasattr(item, "keys") and _action(item)]
    if not groups and _action(content):
        groups = ["/"]
    if not groups:
        raise UserError(f"{file} has keys {sorted(content)}; expected data/demo_0/actions (robomimic) or action and observations.")
    return sorted(groups, key=lambda group: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", group)])


def _action(group: Any) -> str:
    return next((key for key in ("actions", "action") if key in group), "")


def _observations(group: Any) -> dict[str, Any]:
    """{last part of its path: data} of all observations."""
    found: dict[str, Any] = {}
    for key in ("obs", "observations"):
        if key in group:
            group[key].visititems(lambda name, item: found.update({name.split("/")[-1]: item} if hasattr(item, "shape") else {}))
    return found


def _observation(settings: Settings, group: Any, file: Path) -> tuple[list[str], list[str], ObservationSpec]:
    found = _observations(group)
    cameras = {key: item for key, item in found.items() if item.ndim == 4 and item.shape[-1] == 3 and item.dtype == np.uint8}
    vectors = {key: item for key, item in found.items() if item.ndim in (1, 2) and item.dtype.kind in "fiu" and item.dtype != np.uint8}
    name = f"{file}{group.name}"
    chosen = choose("--cameras", settings.cameras, cameras, sorted(cameras), name)
    state = choose("--state", settings.state, vectors, sorted(vectors), name)
    dims = {key: int(np.prod(vectors[key].shape[1:])) for key in state}
    size = image_size(settings, {key: cameras[key].shape[1:3] for key in chosen}, name)
    description = ", ".join(f"{key} ({dim})" for key, dim in dims.items())
    return chosen, state, ObservationSpec(tuple(chosen), size, sum(dims.values()), description)


def _read(
    settings: Settings, cameras: tuple[str, ...], state: tuple[str, ...], size: tuple[int, int], success: str, unit: tuple[int, str, str]
) -> Iterator[tuple[int, Episode]]:
    index, file, group = unit
    name = f"{file}: {group}"
    recording = naming(name, lambda: _recording(settings, cameras, state, size, success, file, group, name))
    yield from finished(iter([(index, recording)]), settings.collector)


def _recording(
    settings: Settings,
    cameras: tuple[str, ...],
    state: tuple[str, ...],
    size: tuple[int, int],
    success: str,
    file: str,
    group: str,
    name: str,
) -> Recording:
    with _open(Path(file)) as content:
        episode = content[group]
        observations = _observations(episode)
        following = episode.get("next_obs", {})
        actions = np.asarray(episode[_action(episode)], np.float32)

        def column(key: str) -> np.ndarray:
            if key not in episode:
                raise UserError(f"{name} has no {key!r}, which the first episode has; expected keys {sorted(episode)}.")
            return np.asarray(episode[key])

        def entries(key: str) -> list[np.ndarray]:
            if key not in observations:
                raise UserError(f"{name} has no observation {key!r}, which the first episode has; expected {sorted(observations)}.")
            values = list(observations[key])
            return values + [following[key][-1]] if len(values) == len(actions) and has_next else values

        has_next = all(key in following for key in (*cameras, *state))
        vectors = [np.asarray(entries(key), np.float32).reshape(-1, int(np.prod(observations[key].shape[1:]))) for key in state]
        count = len(observations[(*cameras, *state)[0]]) + has_next
        return Recording(
            name=name,
            instruction=settings.instruction or _instruction(content, episode, name),
            images={key: [images.jpeg(frame, size, settings.image_size is not None) for frame in entries(key)] for key in cameras},
            state=np.concatenate(vectors, axis=1) if vectors else np.zeros((count, 0), np.float32),
            actions=actions,
            success=outcome(success, column, name),
            rewards=column(settings.reward) if settings.reward else None,
            dt=1.0 / (settings.fps or _frequency(content, episode, name)),
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


def _instruction(content: Any, episode: Any, name: str) -> str:
    attributes = _attributes(content, episode)
    for key in _INSTRUCTION:
        if key in attributes:
            value = attributes[key]
            return "".join(value) if isinstance(value, list | tuple) else value.decode() if isinstance(value, bytes) else str(value)
    raise UserError(f"{name} has no instruction (an attribute {' or '.join(_INSTRUCTION)}); give --instruction='open the drawer'.")


def _frequency(content: Any, episode: Any, name: str) -> float:
    attributes = _attributes(content, episode)
    arguments = attributes | attributes.get("env_kwargs", {})
    for key in ("fps", "control_freq"):
        if key in arguments:
            return float(arguments[key])
    raise UserError(f"{name} does not say how fast it was recorded (an attribute fps, or control_freq in env_args); give --fps=20.")
