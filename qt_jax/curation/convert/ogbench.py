"""OGBench: a file of states, NAME.npz, and NAME-val.npz beside it, which becomes the validation split.

All records of all episodes are in one array each. A record is an observation and the action taken there, and
the last one of an episode is marked. OGBench itself gives the action of that one up, as `recording` does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qt_jax.curation.convert import keys
from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.keys import Key
from qt_jax.curation.convert.recording import Indexed, Recording, Source, finished
from qt_jax.curation.convert.settings import Settings
from qt_jax.curation.convert.skips import Skips, naming
from qt_jax.data import play
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATION, ObservationSpec

SUFFIX, VALIDATION = ".npz", "-val.npz"
DT = 0.05
"""Seconds that an action is held in OGBench's manipulation, unless --fps says another rate."""
_KEYS = {"observations": 2, "actions": 2, "terminals": 1}
"""{array: its dims}."""
_ROLES = {"observations": "the state", "actions": "the action", "terminals": "the ends of the episodes"}
_UNUSED = (
    "success", "reward", "fallback_instruction", "cameras", "camera", "bgr", "action", "action_names",
    "state", "image_size", "intervention", "split", "validation", "cut", "tolerance_s", "action_space",
    "action_state", "delta_unit",
)  # fmt: skip
"""Flags that mean nothing for such a file."""


def open_source(given: Settings) -> Source:
    """Opens NAME.npz, and NAME-val.npz if it is there. An episode is of play unless flags say otherwise.

    Raises:
        UserError: for a file that is no such file, or a flag that means nothing here.
    """
    file = Path(given.input)
    if file.suffix != SUFFIX or not file.is_file() or file.name.endswith(VALIDATION):
        raise UserError(f"--input is {given.input!r}; expected the file NAME.npz of training.")
    if unused := [flag for flag in _UNUSED if getattr(given, flag)]:
        raise UserError(f"--{unused[0]} means nothing for OGBench's files; leave it out.")

    held_out = file.with_name(file.name.removesuffix(SUFFIX) + VALIDATION)
    files = [file, held_out] if held_out.is_file() else [file]
    arrays = [naming(str(path), functools.partial(_arrays, path)) for path in files]
    states, actions = (arrays[0][key].shape[1] for key in ("observations", "actions"))
    bounds = Bounds([f"a{dim}" for dim in range(actions)])
    for path, found in zip(files, arrays):
        if (found["observations"].shape[1], found["actions"].shape[1]) != (states, actions):
            raise UserError(f"{path} has other dims than {file.name}; give two files of one dataset.")
        bounds.add(path.name, found["actions"], found["observations"])

    counts = [int(found["terminals"].sum()) for found in arrays]
    return Source(
        units=[(str(file), 0)],
        validation=tuple((str(path), counts[0]) for path in files[1:]),
        episodes=sum(counts),
        read=functools.partial(_read, given),
        bounds=bounds,
        observation=ObservationSpec((), (0, 0), states, f"OGBench's {states} numbers"),
        description=f"{file.stem} of OGBench",
        keys=tuple(_described(file, arrays[0])),
        notes=tuple(bounds.warnings()),
        skips=Skips(given.max_skipped),
    )


def _described(path: Path, arrays: dict[str, np.ndarray]) -> Iterator[Key]:
    with np.load(path) as file:
        for name in file:
            holds = f"{arrays[name].dtype} {list(arrays[name].shape[1:])}" if name in arrays else "an array"
            roles = [_ROLES[name]] if name in _ROLES else []
            yield keys.described(name, holds, roles, "the observation holds what OGBench's tasks need")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        if missing := sorted(set(_KEYS) - set(file)):
            raise UserError(f"{path} has no {missing}; expected OGBench's {sorted(_KEYS)}.")
        arrays = {key: file[key] for key in _KEYS}
    shapes = {key: array.shape for key, array in arrays.items()}
    fits = all(len(shapes[key]) == dims for key, dims in _KEYS.items())
    if not fits or len({len(array) for array in arrays.values()}) > 1:
        raise UserError(
            f"{path} has arrays of shapes {shapes}; expected states [N, S], actions [N, D] and terminals "
            "[N]. Images are not read."
        )
    arrays["terminals"] = arrays["terminals"].astype(bool)
    if not len(arrays["terminals"]) or not arrays["terminals"][-1]:
        raise UserError(f"{path} does not end with the end of an episode; it is cut short, copy it again.")
    return arrays


def _read(given: Settings, unit: tuple[str, int]) -> Iterator[Indexed]:
    """Reads the episodes of a file, whose first one is at this place of both files' together."""
    path, first = unit
    arrays = _arrays(Path(path))
    # The flag's default, which play is not.
    collector = play.TASK if given.collector == DEMONSTRATION else given.collector
    begin = 0
    for index, end in enumerate((np.flatnonzero(arrays["terminals"]) + 1).tolist(), first):
        name = f"{path}, episode {index}"
        recorded = functools.partial(_recording, given, arrays, slice(begin, end), name)
        yield finished(name, recorded, index, collector)
        begin = end


def _recording(given: Settings, arrays: dict[str, np.ndarray], records: slice, name: str) -> Recording:
    return Recording(
        name=name,
        instruction=given.instruction or play.TASK,
        frames={},
        state=arrays["observations"][records].astype(np.float32),
        actions=arrays["actions"][records].astype(np.float32),
        success=False,
        rewards=None,
        dt=1.0 / given.fps if given.fps else DT,
        first=records.start,
    )
