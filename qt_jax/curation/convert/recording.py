"""What a recorded episode is, whatever its format, and how it becomes an episode of ours.

Our episodes end with o_T, the observation after the last action. Most recordings do not have it: each frame
holds an observation and the action taken there. Then the final action is given up, and the observation before
it becomes o_T; a reward or a success of that action moves to the transition before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from qt_jax.curation import rlds_writer
from qt_jax.curation.convert.skips import Skips, naming
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec


@dataclasses.dataclass(frozen=True)
class Plan:
    """task: the instruction itself: recordings are told apart by what the robot was told, to the letter."""

    task: str
    collector: str
    index: int


@dataclasses.dataclass(frozen=True)
class Episode:
    """As `rlds_writer` takes it. notes: what is worth a look."""

    plan: Plan
    instruction: str
    images: dict[str, list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool
    dt: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened folder, whose numbers were looked at.

    read(unit): the (index, episode) pairs of one of `units`, a UserError in place of an episode that cannot
    be read; both are picklable.
    episodes: how many there are to read. notes: what of the input is not used, and what is worth a look.
    skips: the episodes that are left out already, and how many more may be.
    """

    units: list[Any]
    episodes: int
    read: Callable[[Any], Iterable[tuple[int, Episode | UserError]]]
    action: ActionSpec
    observation: ObservationSpec
    description: str
    notes: tuple[str, ...]
    skips: Skips


@dataclasses.dataclass(frozen=True)
class Frames:
    """One camera's of a recording. count: how many there are. read(n): the first n of them as JPEG."""

    count: int
    read: Callable[[int], Iterator[bytes]]


@dataclasses.dataclass(frozen=True)
class Recording:
    """T actions with T or T + 1 observations.

    name: file and episode, with which every message begins. success: the outcome, or for each action whether
    it solved the task. first: what step of the episode in the file its first is.
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


def finish(recording: Recording, index: int, collector: str) -> Episode:
    """The first success ends the episode and is terminal; without one it was truncated.

    Raises:
        UserError: as `check` does, for a frame that cannot be read, and for more than a record holds.

    """
    last = check(recording)
    success = bool(np.any(recording.success))
    marked = success and np.ndim(recording.success) > 0
    first = int(np.argmax(recording.success)) if marked else len(recording.actions)
    length = min(last, first + 1)
    rewards = np.zeros(length, np.float32)
    if recording.rewards is None:
        rewards[-1] = success
    else:
        rewards[:] = recording.rewards[:length]
        if first >= last:
            rewards[-1] += recording.rewards[last:].sum()
    at = recording.first + first
    notes = (f"{recording.name}: {last - length} actions after its success, at step {at}, are not used",)
    return Episode(
        plan=Plan(recording.instruction, collector, index),
        instruction=recording.instruction,
        images=_images(recording, length + 1),
        state=recording.state[: length + 1],
        actions=recording.actions[:length],
        rewards=rewards,
        success=success,
        dt=recording.dt,
        notes=notes if length < last else (),
    )


def check(recording: Recording) -> int:
    """How many transitions there are, without a look at the images.

    Raises:
        UserError: if observations, actions and what is beside them do not belong together, are not finite,
            or too few.

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
    for what, column in (("reward", recording.rewards), ("success", recording.success)):
        if column is not None and np.ndim(column):
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
    """The first `count` frames of each camera; refused once it shows that a record cannot hold them."""
    images: dict[str, list[bytes]] = {camera: [] for camera in recording.frames}
    size, seen, total = 0, 0, count * len(images)
    for camera, frames in recording.frames.items():
        for frame in frames.read(count):
            images[camera].append(frame)
            size, seen = size + len(frame), seen + 1
            # What is to come is reckoned from what came: the more of it, the surer.
            expected, doubt = size * total / seen, 0.25 * (1.0 - seen / total)
            surely = seen >= 16 and expected > rlds_writer.MAX_RECORD * (1.0 + doubt)
            if surely or size > rlds_writer.MAX_RECORD:
                rlds_writer.check_size(recording.name, expected)
    return images


def per_step(values: np.ndarray, key: str, name: str) -> np.ndarray:
    """[T] of a column of one number a step, [T] or [T, 1].

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
    """What the success flag or key says of an episode.

    Raises:
        UserError: for a key that marks no success: a shaped reward would end an episode at its first step.

    """
    if key in ("all", "none"):
        return key == "all"
    values = column(key)
    if len(values) and (not values.min() >= 0 or len(set(values[values != 0].tolist())) > 1):
        raise UserError(
            f"{name}: {key} goes from {values.min():.3g} to {values.max():.3g} in several steps, expected 0 "
            "or one positive value at success; give --success=all, none or another key."
        )
    return values > 0


def finished(
    name: str, read: Callable[[], Recording], index: int, collector: str
) -> tuple[int, Episode | UserError]:
    """The episode that `read` gives, or what is wrong with it."""
    try:
        return index, naming(name, lambda: finish(read(), index, collector))
    except UserError as error:
        return index, error
