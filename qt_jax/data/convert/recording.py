"""What a recorded episode is, whatever its format, and how it becomes an episode of ours.

Our episodes end with o_T, the observation after the last action. Most recordings do not have it: each frame holds an observation and
the action taken there. Then the final action is given up, and the observation before it becomes o_T; a reward or a success of that
action moves to the transition before it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec, ObservationSpec


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a folder is to be read: the flags of `convert`."""

    input: str
    format: str
    success: str = ""
    """A key, positive where the task is solved; or "all" or "none". Empty: the format's own key."""
    reward: str = ""
    """A key; empty: 1 at the transition that succeeds."""
    instruction: str = ""
    collector: str = "demonstration"
    fps: float = 0.0
    cameras: tuple[str, ...] | None = None
    """None: all."""
    state: tuple[str, ...] | None = None
    """Keys that are joined to the state vector; None: the format's own."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are resized to; None: as they are."""


@dataclasses.dataclass(frozen=True)
class Plan:
    task: str
    collector: str
    index: int


@dataclasses.dataclass(frozen=True)
class Episode:
    """As `rlds_writer` takes it."""

    plan: Plan
    instruction: str
    images: dict[str, list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool
    dt: float


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened folder. `read(unit)` gives the (index, episode) pairs of one of `units`; both are picklable."""

    units: list[Any]
    episodes: int
    read: Callable[[Any], Iterable[tuple[int, Episode]]]
    action: ActionSpec
    observation: ObservationSpec
    description: str


@dataclasses.dataclass(frozen=True)
class Recording:
    """T actions with T or T + 1 observations. success: the outcome, or for each action whether it solved the task."""

    name: str
    instruction: str
    images: dict[str, list[bytes]]
    state: np.ndarray
    actions: np.ndarray
    success: bool | np.ndarray
    rewards: np.ndarray | None
    dt: float


def finish(recording: Recording, index: int, collector: str) -> Episode:
    """The first success ends the episode and is terminal; without one it was truncated.

    Raises:
        UserError: if observations and actions do not belong together, or too few are left.
    """
    given = len(recording.actions)
    lengths = {"state": len(recording.state)} | {name: len(frames) for name, frames in recording.images.items()}
    observed = min(lengths.values())
    if set(lengths.values()) not in ({given}, {given + 1}):
        raise UserError(f"{recording.name} has {given} actions and observations {lengths}; expected {given} or {given + 1} of each.")
    last = observed - 1
    if last < 1:
        raise UserError(f"{recording.name} has {given} actions and {observed} observations; a transition needs two observations.")
    success = bool(np.any(recording.success))
    first = int(np.argmax(recording.success)) if success and np.ndim(recording.success) else given
    length = min(last, first + 1)
    rewards = np.zeros(length, np.float32)
    if recording.rewards is None:
        rewards[-1] = success
    else:
        rewards[:] = recording.rewards[:length]
        if first >= last:
            rewards[-1] += recording.rewards[last:].sum()
    return Episode(
        plan=Plan(_slug(recording.instruction), collector, index),
        instruction=recording.instruction,
        images={name: frames[: length + 1] for name, frames in recording.images.items()},
        state=recording.state[: length + 1],
        actions=recording.actions[:length],
        rewards=rewards,
        success=success,
        dt=recording.dt,
    )


def _slug(instruction: str) -> str:
    """A task's name: recordings are told apart by what the robot was told."""
    return re.sub(r"[^a-z0-9]+", "-", instruction.lower()).strip("-") or instruction


def action_spec(names: list[str], low: np.ndarray, high: np.ndarray) -> ActionSpec:
    """Bounds as the data has them; a dim that never moves gets a range around its value."""
    still = low >= high
    low, high = np.where(still, low - 1.0, low), np.where(still, high + 1.0, high)
    return ActionSpec(
        tuple(names), tuple(map(float, low)), tuple(map(float, high)), bins=(2,) * len(names)
    )  # bins are the learner's choice


def choose(flag: str, wanted: tuple[str, ...] | None, available: dict[str, Any], default: Iterable[str], name: str) -> list[str]:
    """The keys that a flag names, or the default.

    Raises:
        UserError: for a key that is not there.
    """
    for key in wanted or ():
        if key not in available:
            raise UserError(f"{flag}={','.join(wanted or ())}: {name} has no {key!r}; expected some of {sorted(available)}.")
    return list(default) if wanted is None else list(wanted)


def image_size(settings: Settings, sizes: dict[str, tuple[int, int]], name: str) -> tuple[int, int]:
    """Height and width of all cameras' images in the dataset."""
    if settings.image_size:
        return settings.image_size
    if len(set(sizes.values())) > 1:
        raise UserError(f"{name} has cameras of different sizes {sizes}; give --image_size=HEIGHT,WIDTH to resize them, or --cameras.")
    return next(iter(sizes.values()), (0, 0))


def success_key(settings: Settings, keys: Iterable[str], own: str, name: str) -> str:
    """ "all", "none" or a key that is there."""
    keys = list(keys)
    if not settings.success and own not in keys:
        raise UserError(f"{name} has no {own!r} to tell success by; give --success=all, --success=none or --success=KEY, of {keys}.")
    for flag in ("success", "reward"):
        value = getattr(settings, flag)
        if value and value not in keys and (flag == "reward" or value not in ("all", "none")):
            expected = keys if flag == "reward" else ["all", "none", *keys]
            raise UserError(f"--{flag} is {value!r}, which {name} does not have; expected one of {expected}.")
    return settings.success or own


def outcome(key: str, column: Callable[[str], np.ndarray], name: str) -> bool | np.ndarray:
    """What the success flag or key says of an episode.

    Raises:
        UserError: for a key that does not mark success: a shaped reward would end each episode at its first step.
    """
    if key in ("all", "none"):
        return key == "all"
    values = column(key)
    if values.min() < 0 or len(set(values[values != 0].tolist())) > 1:
        raise UserError(
            f"{name}: {key} goes from {values.min():.3g} to {values.max():.3g} in several steps, expected 0 or one positive value "
            "at success; give --success=all, none or another key."
        )
    return values > 0


def naming(name: str, read: Callable[[], Recording]) -> Recording:
    """What `read` gives, or a UserError that names the damaged episode."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{name} cannot be read ({type(error).__name__}: {line}); the file is damaged or incomplete, copy it again."
        ) from error


def finished(recordings: Iterator[tuple[int, Recording]], collector: str) -> Iterator[tuple[int, Episode]]:
    for index, recording in recordings:
        yield index, finish(recording, index, collector)
