"""Whether actions are absolute (where the state is to go) or deltas (how far it is to move), and the turning.

openpi's DeltaActions and AbsoluteActions turn them in the same way: the state at the time of the action is
taken from it, or added to it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from qt_jax.data.samples import Samples
from qt_jax.errors import UserError
from qt_jax.safety import ABSOLUTE, DELTA, MOVES

SPACES = MOVES
_SAMPLES, _FEWEST = 20_000, 50
"""Steps that are looked at, and how many are needed to tell."""
_ALIKE = 0.6
"""Least share of an absolute action's variance that the state after it explains, and least correlation of a
delta with the movement that follows.
"""
_UNITS = (0.2, 5.0)
"""A delta of 1 that moves the state by less or more has a unit of its own."""


@dataclasses.dataclass(frozen=True)
class Space:
    """What a dim of the action is.

    Attributes:
        name: of the dim.
        kind: one of `SPACES`; "" where it is neither, or where nothing tells.
        entry: the entry of the state that it moves; -1 where `kind` is "" and no flag names one.
        unit: how far a delta of 1 moves that entry; 1 of others.
        why: why `kind` is "".
    """

    name: str
    kind: str
    entry: int
    unit: float = 1.0
    why: str = ""

    def described(self) -> str:
        """Returns its kind in words, with the unit of a delta where it is not the state's."""
        return self.kind + (f" of {self.unit:.2g}" if self.unit != 1.0 else "")


@dataclasses.dataclass(frozen=True)
class Turn:
    """Turns actions into the other space.

    Attributes:
        to: one of `SPACES`.
        entries: [D], the entry of the state that is taken from a dim, or added to it; -1 leaves it as it is.
        unit: how far a delta of 1 moves the state.
    """

    to: str
    entries: tuple[int, ...]
    unit: float

    def actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Returns the actions [T, D] in the other space, given the state [T, S] at each of them."""
        turned, dims = actions.copy(), [dim for dim, entry in enumerate(self.entries) if entry >= 0]
        before = state[:, [self.entries[dim] for dim in dims]]
        if self.to == DELTA:
            turned[:, dims] = (actions[:, dims] - before) / self.unit
        else:
            turned[:, dims] = before + self.unit * actions[:, dims]
        return turned

    def described(self, spaces: Sequence[Space]) -> str:
        """Returns in words what is done to which of the actions, and which are left as they are."""
        how = "less" if self.to == DELTA else "plus"
        pairs = list(zip(spaces, self.entries, strict=True))
        done = ", ".join(f"{one.name} {how} state {entry}" for one, entry in pairs if entry >= 0)
        left = ", ".join(one.name for one, entry in pairs if entry < 0)
        return done + (f"; as it is: {left}" if left else "")


class Movements:
    """Samples of actions with the state after them, which tell what each dim of the action is."""

    def __init__(self, names: Sequence[str], state: Sequence[str], entries: Sequence[str] | None):
        """Pairs the dims of the action with entries of the state.

        Args:
            names: of the dims of the action.
            state: names of the entries of the state.
            entries: --action_state, an entry's number or "-" for each dim; None: the entry of the same name,
                or where no name is the same the entry that fits best.

        Raises:
            UserError: for `entries` that are not one for each dim, or not in the state.
        """
        self._names, self._given = tuple(names), entries is not None
        self._samples = Samples(_SAMPLES)
        every = list(range(len(state)))
        by_name = [[entry for entry in every if state[entry] == name] for name in names]
        self._candidates = by_name if any(by_name) else [every] * len(names)
        if entries is not None:
            numbers = [int(entry) if entry.isdigit() else -1 for entry in entries]
            if len(numbers) != len(names) or any(
                number >= len(state) or (number < 0 and entry != "-")
                for number, entry in zip(numbers, entries)
            ):
                raise UserError(
                    f"--action_state is {','.join(entries)!r}; expected for each of the {len(names)} actions "
                    f"{', '.join(names)} the number of its entry in the state of {len(state)}, or -."
                )
            self._candidates = [[number] if number >= 0 else [] for number in numbers]

    def add(self, actions: np.ndarray, state: np.ndarray) -> None:
        """Adds a recording: actions [T, D] and states [T or T + 1, S]."""
        steps = min(len(actions), len(state) - 1)
        after = state[1 : steps + 1]
        self._samples.add(steps, {"action": actions, "after": after, "moved": after - state[:steps]})

    def spaces(self) -> tuple[Space, ...]:
        """Returns what each dim of the action is."""
        action, after, moved = (
            self._samples.rows(name).astype(np.float64) for name in ("action", "after", "moved")
        )
        return tuple(
            self._space(dim, action[:, dim], after[:, entries], moved[:, entries])
            for dim, entries in enumerate(self._candidates)
        )

    def _space(self, dim: int, action: np.ndarray, after: np.ndarray, moved: np.ndarray) -> Space:
        """Returns what a dim is: `action` [n] against the entries that may be its own, each [n, entries]."""
        name, entries, spread = self._names[dim], self._candidates[dim], action.var()
        untold = functools.partial(Space, name, "", entries[0] if self._given and entries else -1)
        if not entries:
            by = "--action_state" if self._given else "their names"
            return untold(why=f"without an entry of the state by {by}")
        if len(action) < _FEWEST:
            return untold(why=f"fewer than {_FEWEST} steps to tell by")
        if spread < 1e-12:
            return untold(why="always the same")
        explained = 1.0 - np.square(action[:, None] - after).mean(axis=0) / spread
        if explained.max() >= _ALIKE:
            return Space(name, ABSOLUTE, entries[int(explained.argmax())])
        together = ((action - action.mean())[:, None] * (moved - moved.mean(axis=0))).mean(axis=0)
        alike = together / np.maximum(action.std() * moved.std(axis=0), 1e-12)
        best = int(alike.argmax())
        if alike[best] >= _ALIKE:
            return Space(name, DELTA, entries[best], float(together[best] / spread))
        return untold(why="neither absolute nor delta")


def turn(spaces: Sequence[Space], to: str, unit: float, given: bool) -> Turn | None:
    """Returns how to turn actions; None where they are in that space already.

    Args:
        spaces: what each dim is.
        to: one of `SPACES`.
        unit: --delta_unit, how far a delta of 1 moves the state; 0: as far as it says.
        given: whether --action_state names the entries; then a dim that has one is turned even if it seems to
            be neither.

    Raises:
        UserError: where nothing tells what the dims are, or for deltas whose unit is not the state's.
    """
    turned = [one for one in spaces if one.entry >= 0 and (one.kind or given) and one.kind != to]
    if not turned and not any(one.kind for one in spaces):
        raise UserError(
            f"--action_space={to}: nothing tells what the actions are ({'; '.join(lines(spaces))}); name the "
            "entry of the state for each action, or -, with --action_state=0,1,-."
        )
    for one in turned:
        if not unit and one.kind == DELTA and not _UNITS[0] <= one.unit <= _UNITS[1]:
            raise UserError(
                f"--action_space={to}: 1 of action {one.name!r} moves entry {one.entry} of the state by "
                f"{one.unit:.2g}; give --delta_unit, how far it is meant to move it (1: as far as it says)."
            )
    entries = tuple(one.entry if one in turned else -1 for one in spaces)
    return Turn(to, entries, unit or 1.0) if turned else None


def after(spaces: Sequence[Space], turn: Turn) -> tuple[Space, ...]:
    """Returns what each dim is when it was turned."""
    unit = turn.unit if turn.to == DELTA else 1.0
    return tuple(
        one if entry < 0 else Space(one.name, turn.to, entry, unit)
        for one, entry in zip(spaces, turn.entries, strict=True)
    )


def lines(spaces: Sequence[Space]) -> list[str]:
    """Returns a line for each kind of action that there is, and for each reason why some have none."""
    dims: dict[str, list[str]] = {ABSOLUTE: [], DELTA: []}
    for one in spaces:
        moves = {ABSOLUTE: f" (state {one.entry})", DELTA: f" (1 moves state {one.entry} by {one.unit:.2g})"}
        dims.setdefault(one.kind or one.why, []).append(one.name + moves.get(one.kind, ""))
    return [f"actions, {kind}: {', '.join(names)}" for kind, names in dims.items() if names]


def metadata(spaces: Sequence[Space]) -> dict[str, dict[str, str | int | float]]:
    """Returns what the dataset's metadata says of the dims that are absolute or deltas, by their names."""
    return {one.name: {"space": one.kind, "state": one.entry, "unit": one.unit} for one in spaces if one.kind}
