"""Safety limits of a robot's actions: what a user may set; policy/guard.py keeps actions inside them.

They are a JSON file (docs/robot.md has one), and a part of the policy's spec, so that every runtime, the
server and its clients have the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qt_jax.errors import UserError, first_line

if TYPE_CHECKING:
    from qt_jax.specs import ActionSpec

KINDS = ABSOLUTE, DELTA, OTHER = ("absolute", "delta", "other")
"""What a dim of an action is: where the robot is to go, how far it is to move in a control step, or something
else, such as a gripper's open and closed, or a velocity.
"""
MOVES = (ABSOLUTE, DELTA)
"""Kinds that move a position."""
FALLBACKS = HOLD, STOP = ("hold", "stop")
"""What is done in the place of an action: the last one again, or the user's own stop action."""
LAST = "last"
"""As the stop action of an absolute dim: where it was last sent."""
LIMITS = ("bounds", "box", "change", "velocity", "stale", "late", "refused")
"""Names of what may alter an action, as they are counted and shown."""


@dataclasses.dataclass(frozen=True)
class DimLimits:
    """Limits of one dim: `low`, `high` and `stop` in the action's units, the others in the state's.

    Raises:
        UserError: for values that contradict each other; `SafetyLimits` names the dim.

    """

    kind: str = ""
    """"absolute", "delta" or "other" (`KINDS`); box, change and velocity are of the first two."""
    entry: int | None = None
    """Entry of the state that says where the dim is."""
    unit: float = 1.0
    """How far a delta of 1 moves that entry."""
    low: float | None = None
    """Least action, where the policy's own bound is not enough."""
    high: float | None = None
    """Greatest action."""
    box: tuple[float, float] | None = None
    """The workspace: the least and the greatest position that the dim may be sent to."""
    change: float | None = None
    """Largest movement in a control step."""
    velocity: float | None = None
    """Largest movement in a second."""
    stop: float | str | None = None
    """The action of a robot that is to stop: a number, or "last" (of an absolute dim: where it was sent)."""

    def __post_init__(self):
        for name in ("low", "high", "change", "velocity", "unit"):
            _require_number(name, getattr(self, name))
        if self.kind not in ("", *KINDS):
            raise UserError(f"kind is {self.kind!r}; give one of {KINDS}, or leave it out.")
        if self.entry is not None and (type(self.entry) is not int or self.entry < 0):
            raise UserError(f"entry is {self.entry!r}; give a whole number of 0 or more.")
        if self.box is not None:
            object.__setattr__(self, "box", _pair(self.box))
        for name in ("change", "velocity"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} is {value:g}; give a number above 0.")
        if not self.unit or (self.unit != 1 and self.kind != DELTA):
            raise UserError(f"unit is {self.unit}; it is of deltas alone, and not 0.")
        if self.stop != LAST:
            _require_number("stop", self.stop)
        elif self.kind != ABSOLUTE:
            raise UserError(f"stop is {LAST!r}, which is of absolute dims; give a number, of a delta 0.")
        for name in ("box", "change", "velocity"):
            if getattr(self, name) is not None and self.kind not in MOVES:
                raise UserError(f"{name} is of positions; give kind, {ABSOLUTE!r} or {DELTA!r}.")
        self._check_entry()

    def _check_entry(self) -> None:
        """Raises a UserError for what cannot be checked without the dim's position."""
        if self.entry is not None:
            return
        if self.kind == DELTA and self.box is not None:
            raise UserError("box of a delta needs its position; give entry, its place in the state.")
        if self.kind == ABSOLUTE and (self.change or self.velocity):
            raise UserError(
                "change and velocity of an absolute dim need the position from which an episode begins; give "
                "entry, its place in the state."
            )

    def within(self, low: float, high: float) -> tuple[float, float]:
        """Returns the least and the greatest action that these limits leave of bounds."""
        box = self.box if self.box and self.kind == ABSOLUTE else (low, high)
        own = low if self.low is None else self.low, high if self.high is None else self.high
        return max(low, own[0], box[0]), min(high, own[1], box[1])


@dataclasses.dataclass(frozen=True)
class SafetyLimits:
    """Limits of a robot's dims, and what is done where there is no action that may be executed.

    Raises:
        UserError: for limits that contradict each other, or limit nothing.

    """

    dims: Mapping[str, DimLimits] = dataclasses.field(default_factory=dict)
    """Of the dims that are limited, by their names."""
    stale_ms: float | None = None
    """Age of an observation (`age_ms` in it) above which its action is not executed."""
    on_stale: str = ""
    """"hold" or "stop": what is done instead."""
    late_ms: float | None = None
    """Of a client: how long after the last action's end its loop waits for the next before it falls back."""
    on_late: str = ""
    """"hold" or "stop": what it does then, also while it connects again."""
    on_refused: str = ""
    """"hold" or "stop" at an observation that is refused; empty: no action."""
    hold_ms: float | None = None
    """How long "hold" holds before it becomes "stop"; a delta that is held goes on moving."""

    def __post_init__(self):
        modes = {name: getattr(self, name) for name in ("on_stale", "on_late", "on_refused")}
        for name, mode in modes.items():
            if mode not in ("", *FALLBACKS):
                raise UserError(f"{name} is {mode!r}; give one of {FALLBACKS}, or leave it out.")
        for name in ("stale_ms", "late_ms", "hold_ms"):
            value = getattr(self, name)
            _require_number(name, value)
            if value is not None and value < 0:
                raise UserError(f"{name} is {value:g}; give milliseconds, 0 or more.")
        needed = {"stale": bool(self.on_stale), "late": bool(self.on_late), "hold": HOLD in modes.values()}
        for name, given in needed.items():
            if given != (getattr(self, f"{name}_ms") is not None):
                other = f"on_{name}" if name != "hold" else f"{HOLD!r} in on_stale, on_late or on_refused"
                raise UserError(f"{name}_ms and {other} go together; give both or neither.")
        if not self.dims and not any(modes.values()):
            raise UserError("The limits limit nothing; give dims, on_stale, on_late or on_refused.")

    @property
    def falls_back(self) -> bool:
        """Whether anything may be done in the place of an action."""
        return bool(self.on_stale or self.on_late or self.on_refused)

    @classmethod
    def read(cls, path: str | Path) -> SafetyLimits:
        """Reads a JSON file with this class's fields.

        Raises:
            UserError: if it cannot be read, naming the key that is unknown or whose value is wrong.

        """
        try:
            return cls.from_json(json.loads(Path(path).read_text()))
        except (OSError, ValueError, UserError) as error:
            why = getattr(error, "strerror", None) or first_line(error)
            raise UserError(f"limits={path} cannot be used ({why}); give a JSON file of limits.") from error

    @classmethod
    def from_json(cls, value: Any) -> SafetyLimits:
        """Reads what `dataclasses.asdict` gave, or a user wrote.

        Raises:
            UserError: naming the key that is unknown or whose value is wrong.

        """
        fields = _known(cls, "The limits", value)
        dims = fields.get("dims", {})
        if not isinstance(dims, dict):
            raise UserError(f"dims is {str(dims)[:50]!r}; give an object from names of dims to their limits.")
        return cls(**fields | {"dims": {name: _of_dim(name, given) for name, given in dims.items()}})

    def check(self, action: ActionSpec, state_dim: int) -> None:
        """Raises a UserError naming what does not fit the robot's action and state."""
        if unknown := sorted(set(self.dims) - set(action.names)):
            raise UserError(f"The limits have dims {unknown}, the action has {list(action.names)}.")
        for name, low, high in zip(action.names, action.low, action.high):
            dim = self.dims.get(name, DimLimits())
            if dim.entry is not None and dim.entry >= state_dim:
                raise UserError(f"Limits of {name!r}: entry is {dim.entry}, the state has {state_dim}.")
            least, most = dim.within(low, high)
            if least >= most:
                raise UserError(
                    f"Limits of {name!r} leave it no action: from {least:g} to {most:g}, the policy's own "
                    f"bounds are {low:g} and {high:g}."
                )
            if self.falls_back and dim.stop is None:
                raise UserError(
                    f"Limits of {name!r}: stop is missing, which on_stale, on_late and on_refused need of "
                    f"every dim; give the action of a robot that stands still, of an absolute dim {LAST!r}."
                )
            if isinstance(dim.stop, (int, float)) and not least <= dim.stop <= most:
                raise UserError(
                    f"Limits of {name!r}: stop is {dim.stop:g}; give a number from {least:g} to {most:g}."
                )


def _of_dim(name: str, value: Any) -> DimLimits:
    try:
        return DimLimits(**_known(DimLimits, "They", value))
    except UserError as error:
        raise UserError(f"Limits of {name!r}: {error}") from None


def _known(cls: Callable[..., Any], what: str, value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(value, dict) or (set(value) - set(names)):
        found = sorted(set(value) - set(names)) if isinstance(value, dict) else str(value)[:50]
        raise UserError(f"{what} are an object with keys among {names}; found {found!r}.")
    return value


def _require_number(name: str, value: Any) -> None:
    """Raises a UserError for what is neither a finite number nor None."""
    if value is not None and (type(value) not in (int, float) or not np.isfinite(value)):
        raise UserError(f"{name} is {value!r}; give a finite number.")


def _pair(box: Any) -> tuple[float, float]:
    good = isinstance(box, Iterable) and not isinstance(box, str) and len(pair := tuple(box)) == 2
    if not good:
        raise UserError(f"box is {box!r}; give [least, greatest] position.")
    for end in pair:
        _require_number("An end of box", end)
    if None in pair or not pair[0] < pair[1]:
        raise UserError(f"box is {list(pair)}; give [least, greatest] position.")
    return pair
