"""A recording as any format gives it, and how it becomes a `RecordedEpisode`.

A `RecordedEpisode` ends with o_T, the observation after the last action. Most recordings do not have it: each
frame holds an observation and the action taken there. Then the final action is given up, and the observation
before it becomes o_T; a reward or a success of that action moves to the transition before it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from qt_jax.curation import rlds_writer
from qt_jax.curation.convert.action_space import Space, Turn
from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.keys import Key
from qt_jax.curation.convert.skips import Skips, naming
from qt_jax.data.recorded import RecordedEpisode, collector_of, is_mark, rewards_of
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec

Indexed = tuple[int, RecordedEpisode | UserError]
"""An episode's place in the dataset, and the episode or what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened folder, whose numbers were checked.

    Attributes:
        units: units of work; picklable.
        episodes: how many there are to read.
        read: reads the episodes of a unit; picklable.
        bounds: of the actions of the episodes that are not left out.
        observation: cameras, their size, and the state vector.
        description: one line for the dataset.
        keys: what becomes of each key of the input.
        notes: what a person should look at.
        skips: the episodes that are left out already, and how many more may be.
        validation: units of work whose episodes are a split of their own, counted in `episodes`.
        spaces: whether each dim of the action is absolute or a delta; empty: of a format that does not say.
        intervention: whether the episodes say step by step if a person acted.
    """

    units: list[Any]
    episodes: int
    read: Callable[[Any], Iterable[Indexed]]
    bounds: Bounds
    observation: ObservationSpec
    description: str
    keys: tuple[Key, ...]
    notes: tuple[str, ...]
    skips: Skips
    validation: tuple[Any, ...] = ()
    spaces: tuple[Space, ...] = ()
    intervention: bool = False

    @property
    def action(self) -> ActionSpec:
        """Names and bounds of the action's dims."""
        return self.bounds.spec()


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frames of one camera of a recording: how many, and a function that reads the first n as JPEG."""

    count: int
    read: Callable[[int], Iterator[bytes]]


@dataclasses.dataclass(frozen=True)
class Recording:
    """T actions with T or T + 1 observations, as a file has them.

    Attributes:
        name: file and episode, with which every message begins.
        instruction: the sentence given to the robot.
        frames: {camera: its frames}.
        state: [T or T + 1, S].
        actions: [T, D].
        success: the outcome, or [T]: for each action whether it solved the task.
        rewards: [T]; None: 1 at the transition that succeeds, else 0.
        dt: seconds that each action was held.
        first: which step of the file's episode the first one is.
        intervention: [T], positive where a person acted; None: the flags say who acted at all steps.
    """

    name: str
    instruction: str
    frames: dict[str, Frames]
    state: np.ndarray
    actions: np.ndarray
    success: bool | np.ndarray
    rewards: np.ndarray | None
    dt: float
    first: int = 0
    intervention: np.ndarray | None = None


def turned(recording: Recording, turn: Turn | None) -> Recording:
    """Returns a recording with its actions in the other space; as it is where it lacks states for them."""
    steps = len(recording.actions)
    if turn is None or len(recording.state) < steps:
        return recording
    return dataclasses.replace(recording, actions=turn.actions(recording.actions, recording.state[:steps]))


def part(whole: Recording, start: int, stop: int, instruction: str) -> Recording:
    """Returns steps [start, stop) of a recording, with the observation after them where there is one."""

    def cut(frames: Frames) -> Frames:
        def read(count: int) -> Iterator[bytes]:
            return itertools.islice(frames.read(start + count), start, None)

        return Frames(min(frames.count, stop + 1) - start, read)

    def steps(column: Any) -> Any:
        return column[start:stop] if isinstance(column, np.ndarray) else column

    return dataclasses.replace(
        whole,
        name=f"{whole.name} from step {start} to {stop - 1}",
        instruction=instruction,
        frames={camera: cut(frames) for camera, frames in whole.frames.items()},
        state=whole.state[start : stop + 1],
        actions=whole.actions[start:stop],
        success=steps(whole.success),
        rewards=steps(whole.rewards),
        intervention=steps(whole.intervention),
        first=start,
    )


def finish(recording: Recording, index: int, collector: str) -> RecordedEpisode:
    """Returns the episode of a recording. Its task is its instruction, to the letter.

    The first success ends the episode and is terminal; without one the episode is truncated.

    Args:
        recording: its frames are read here.
        index: the episode's place in the dataset.
        collector: who acted, unless the recording says so step by step.

    Raises:
        UserError: as `check` does, for a frame that cannot be read, and for more than a record holds.
    """
    last = check(recording)
    rewards = rewards_of(last, recording.success, recording.rewards)
    length = len(rewards)

    by_person = None
    if recording.intervention is not None:
        by_person = recording.intervention[:length] > 0
        collector = collector_of(by_person)

    at = recording.first + length - 1
    notes = (f"{recording.name}: {last - length} actions after its success, at step {at}, are not used",)
    return RecordedEpisode(
        task=recording.instruction,
        collector=collector,
        index=index,
        instruction=recording.instruction,
        images=_images(recording, length + 1),
        state=recording.state[: length + 1],
        actions=recording.actions[:length],
        rewards=rewards,
        success=bool(np.any(recording.success)),
        dt=recording.dt,
        intervention=by_person,
        notes=notes if length < last else (),
    )


def check(recording: Recording) -> int:
    """Returns how many transitions there are; reads no image.

    Raises:
        UserError: if the numbers of observations, actions, rewards and successes do not fit together, if one
            is not finite, or if there are too few.
    """
    name, given = recording.name, len(recording.actions)
    lengths = {"state": len(recording.state)}
    lengths |= {camera: frames.count for camera, frames in recording.frames.items()}
    observed = min(lengths.values())
    if set(lengths.values()) not in ({given}, {given + 1}):
        raise UserError(
            f"{name} has {given} actions and observations {lengths}; expected {given} or {given + 1} of each."
        )
    if observed < 2:
        raise UserError(
            f"{name} has {given} actions and {observed} observations; a transition needs two observations."
        )

    values = {"action": recording.actions, "state": recording.state}
    columns = {
        "reward": recording.rewards,
        "success": recording.success,
        "intervention": recording.intervention,
    }
    for what, column in columns.items():
        if isinstance(column, np.ndarray):
            if len(column) != given:
                raise UserError(
                    f"{name} has {given} actions and {len(column)} values of its {what}; expected one for "
                    "each action."
                )
            values[what] = column[:, None]
    for what, rows in values.items():
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            step, dim = bad[0]
            raise UserError(
                f"{name}, step {recording.first + step}: {what}[{dim}] is {rows[step, dim]:g}, expected a "
                "finite number; mend the file or leave the episode out."
            )
    return observed - 1


def _images(recording: Recording, count: int) -> dict[str, list[bytes]]:
    """Reads the first `count` frames of each camera.

    Raises:
        UserError: as soon as it is sure that a record cannot hold them.
    """
    images: dict[str, list[bytes]] = {camera: [] for camera in recording.frames}
    size, seen, total = 0, 0, count * len(images)
    for camera, frames in recording.frames.items():
        for frame in frames.read(count):
            images[camera].append(frame)
            size, seen = size + len(frame), seen + 1
            # The size of all frames is estimated from those read so far.
            expected, doubt = size * total / seen, 0.25 * (1.0 - seen / total)
            surely = seen >= 16 and expected > rlds_writer.MAX_RECORD * (1.0 + doubt)
            if surely or size > rlds_writer.MAX_RECORD:
                rlds_writer.check_size(recording.name, expected)
    return images


def per_step(values: np.ndarray, key: str, name: str) -> np.ndarray:
    """Returns a column of one number a step, [T] or [T, 1], as [T].

    Args:
        values: the column.
        key: its name, for messages.
        name: of the episode, for messages.

    Raises:
        UserError: for another shape.
    """
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind not in "fiub":
        raise UserError(f"{name}: {key} holds {values.dtype}, expected numbers; name another key.")
    if values.ndim != 1:
        raise UserError(
            f"{name}: {key} has shape {values.shape}, expected one number a step: [T] or "
            "[T, 1]; name another key."
        )
    return values


def outcome(key: str, column: Callable[[str], np.ndarray], name: str) -> bool | np.ndarray:
    """Returns an episode's outcome, or [T] for each action whether it solved the task.

    Args:
        key: "all", "none", or the name of a column.
        column: reads a column, [T].
        name: of the episode, for messages.

    Raises:
        UserError: for a key that marks no success: a shaped reward would end an episode at its first step.
    """
    if key in ("all", "none"):
        return key == "all"
    values = column(key)
    if not is_mark(values):
        raise UserError(
            f"{name}: {key} goes from {values.min():.3g} to {values.max():.3g} in several steps, expected 0 "
            "or one positive value at success; give --success=all, none or another key, and "
            f"--reward={key} if these are rewards."
        )
    return values > 0


def finished(name: str, read: Callable[[], Recording], index: int, collector: str) -> Indexed:
    """Returns the index with the episode of the recording that `read` returns, or what is wrong with it."""
    try:
        return index, naming(name, lambda: finish(read(), index, collector))
    except UserError as error:
        return index, error
