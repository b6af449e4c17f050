"""Keeps one robot's actions inside its safety limits (qt_jax/safety.py), and says what it altered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from qt_jax.safety import ABSOLUTE, DELTA, HOLD, LAST, STOP, DimLimits, SafetyLimits

_ROUNDING = np.float32(1e-6)
"""How far beyond a limit, as a share of a value above 1, rounding may bring what was limited before: the
client limits again what the server did.
"""


@dataclasses.dataclass(frozen=True)
class Limited:
    """One thing that the limits altered."""

    limit: str
    """Which of `safety.LIMITS`."""
    what: str
    """The dim's name; or "hold" or "stop", which was done in the place of an action."""
    before: float | None = None
    """The dim's action before."""
    after: float | None = None
    """And after."""
    action: int = 0
    """Which of the actions of the decision, from 0."""

    def to_json(self) -> dict[str, Any]:
        """Returns it as a reply has it."""
        return dataclasses.asdict(self)


class Guard:
    """The limits of one robot in one episode: remembers what was executed. Not thread-safe.

    Args:
        limits: that `SafetyLimits.check` has found good.
        names: of the action's D dims.
        dt: seconds of a control step.
        commands: how many commands the robot gets in a control step; each may move it so much less.

    Attributes:
        last: float32 [D], what was executed last; None: nothing yet.

    """

    def __init__(self, limits: SafetyLimits, names: tuple[str, ...], dt: float, commands: int = 1):
        self._limits, self._names, self._step_s = limits, names, dt / commands
        dims = [limits.dims.get(name, DimLimits()) for name in names]
        kinds = np.asarray([dim.kind for dim in dims])
        self._absolute, self._delta = kinds == ABSOLUTE, kinds == DELTA
        self._entries = [(place, dim.entry) for place, dim in enumerate(dims) if dim.entry is not None]
        self._unit = _numbers([dim.unit for dim in dims])
        self._bounds = _ends([dim.low for dim in dims], [dim.high for dim in dims])
        boxes = [dim.box or (None, None) for dim in dims]
        self._box = _ends([low for low, _ in boxes], [high for _, high in boxes])
        self._most = {
            "change": _numbers([dim.change for dim in dims], np.inf) / np.float32(commands),
            "velocity": _numbers([dim.velocity for dim in dims], np.inf) * np.float32(self._step_s),
        }
        self._stop = _numbers([None if dim.stop == LAST else dim.stop for dim in dims], np.nan)
        self.begin()

    def begin(self) -> None:
        """Begins an episode: forgets what was executed, and where the robot was."""
        self.last: np.ndarray | None = None
        self._position = np.full(len(self._names), np.nan, np.float32)
        self._held_s = 0.0

    def see(self, state: np.ndarray) -> None:
        """Takes from the raw state [state_dim] where the dims are now."""
        for dim, entry in self._entries:
            self._position[dim] = state[entry]

    @property
    def before(self) -> np.ndarray:
        """Float32 [D], what was executed last, or where the robot was before; NaN where nothing tells."""
        return self._position if self.last is None else self.last

    def limit(self, action: np.ndarray) -> tuple[np.ndarray, list[Limited]]:
        """Returns what may be executed of an action [D], [D], and what was altered; that is `last` now."""
        self._held_s = 0.0
        return self._executed(action)

    def fall_back(self, why: str) -> tuple[np.ndarray, list[Limited]]:
        """Returns the action in the place of one that may not be executed, as `limit` does.

        It is the last one again, or the stop action; after `hold_ms` in a row always the stop action.

        Args:
            why: "stale", "late" or "refused", whose fallback the limits name.

        """
        assert self.last is not None, "an action was executed before"
        how = getattr(self._limits, f"on_{why}")
        self._held_s += self._step_s
        # A rounding error is not a control step.
        if how == HOLD and self._held_s > (self._limits.hold_ms or 0.0) / 1000 + 1e-6:
            how = STOP
        action, altered = self._executed(self.last) if how == HOLD else self.stop()
        return action, [Limited(why, how), *altered]

    def stop(self) -> tuple[np.ndarray, list[Limited]]:
        """Returns the user's stop action, as `limit` does."""
        return self._executed(np.where(np.isnan(self._stop), self.before, self._stop))

    def _executed(self, action: np.ndarray) -> tuple[np.ndarray, list[Limited]]:
        altered, value = [], action.astype(np.float32)
        for limit, low, high in self._ranges():
            slack = _ROUNDING * np.maximum(1, np.abs(value))
            beyond = (value < low - slack) | (value > high + slack)
            inside = np.where(beyond, np.clip(value, low, high), value)
            for dim in np.flatnonzero(beyond):
                altered.append(Limited(limit, self._names[dim], float(value[dim]), float(inside[dim])))
            value = inside
        self.last = value
        self._position += np.where(self._delta, value * self._unit, 0)
        return value, altered

    def _ranges(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yields each limit's name, and the least and greatest action [D] by it.

        The limits of movement come last: a robot that is outside its box goes back no faster than it may.
        """
        yield "bounds", *self._bounds
        low, high = self._box
        # A delta that is outside may go back, and is not made to.
        there = np.where(np.isnan(self._position), 0, self._position)
        ends = np.stack([np.minimum(low - there, 0), np.maximum(high - there, 0)]) / self._unit
        yield "box", np.where(self._delta, ends.min(0), low), np.where(self._delta, ends.max(0), high)
        start = np.where(self._absolute & ~np.isnan(self.before), self.before, 0)
        for limit, most in self._most.items():
            reach = most / np.abs(self._unit)  # which is 1 of absolute dims
            yield limit, start - reach, start + reach


def _numbers(values: list[Any], otherwise: float = 1.0) -> np.ndarray:
    return np.asarray([otherwise if value is None else value for value in values], np.float32)


def _ends(low: list[Any], high: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    return _numbers(low, -np.inf), _numbers(high, np.inf)
