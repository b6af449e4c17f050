"""What becomes of each key of an input: a table that is shown before anything is written."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from qt_jax.curation.convert.settings import Settings
from qt_jax.errors import UserError

INTERVENTION = ("complementary_info.is_intervention", "is_intervention", "intervention")
"""Usual keys of a column that says at which steps a person acted in place of a policy."""
_UNUSED = "not used: "


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of an input.

    Attributes:
        name: as the input has it.
        holds: what kind of values, and how many.
        becomes: what becomes of it, or why it is not used.
    """

    name: str
    holds: str
    becomes: str

    @property
    def used(self) -> bool:
        """Whether anything becomes of it."""
        return not self.becomes.startswith(_UNUSED)


def described(name: str, holds: str, roles: Iterable[str], why_not: str) -> Key:
    """Returns a key of the input with what becomes of it.

    Args:
        name: as the input has it.
        holds: what kind of values.
        roles: what it becomes; nothing, one thing or several.
        why_not: the reason where it becomes nothing.
    """
    return Key(name, holds, " and ".join(roles) or _UNUSED + why_not)


class Refused(UserError):
    """An input that is refused. keys: what is known of its keys, or what they may become."""

    def __init__(self, message: str, keys: Sequence[Key]):
        super().__init__(message)
        self.keys = keys


@contextlib.contextmanager
def told(known: Callable[[], Sequence[Key]]) -> Iterator[None]:
    """Makes a UserError of the block a `Refused` with the keys that `known` returns."""
    try:
        yield
    except Refused:
        raise
    except UserError as error:
        raise Refused(str(error), known()) from error


def possible(
    name: str,
    holds: str,
    why_not: str,
    *,
    camera: bool = False,
    action: bool = False,
    state: bool = False,
    number: bool = False,
) -> Key:
    """Returns a key of an input that is refused, with what it may become and the flags that say so.

    Args:
        name: as the input has it.
        holds: what kind of values.
        why_not: the reason where it can become nothing.
        camera: whether it holds images that can be used.
        action: whether it may be the action.
        state: whether it may be a part of the state.
        number: whether it is one number a step.
    """
    may = ["a camera (--camera=NAME=KEY)"] * camera
    may += ["the action (--action)"] * action + ["state (--state)"] * state
    may += ["success (--success)", "the reward (--reward)"] * number
    return described(name, holds, [f"may be {', '.join(may)}"] if may else [], why_not)


def roles(settings: Settings, name: str, action: Mapping[str, str], success: str) -> list[str]:
    """Returns what a column of numbers becomes, besides a part of the state.

    Args:
        settings: of the conversion.
        name: of the column.
        action: what `action` returns.
        success: the key of success, "all" or "none".
    """
    taken = {
        "success": success,
        "the reward": settings.reward,
        "who acted": settings.intervention,
    }
    acts = [action[name]] if name in action else []
    return acts + [role for role, key in taken.items() if key == name]


def action(parts: Sequence[tuple[str, int]]) -> dict[str, str]:
    """Returns {key: "the action", or its place in it} of (key, dims) in the order that they are joined in."""
    return places("action", parts) if len(parts) > 1 else {parts[0][0]: "the action"}


def places(what: str, parts: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Returns {key: its place in `what`} of (key, dims) in the order in which they are joined."""
    found, start = {}, 0
    for name, dims in parts:
        found[name] = f"{what} {start}" if dims == 1 else f"{what} {start} to {start + dims - 1}"
        start += dims
    return found


def why_no_number(settings: Settings, name: str, vector: bool) -> str:
    """Returns why a column of numbers is not used, with the flag that would use it.

    Args:
        settings: of the conversion.
        name: of the column.
        vector: whether --state may name it.
    """
    if name.replace("/", ".") in INTERVENTION:
        return "--intervention tells a person's steps from a policy's"
    if vector:
        return "--state or --action may name it" if settings.state is None else "--state leaves it out"
    return "--reward or --success may name it"


def table(keys: Sequence[Key]) -> list[str]:
    """Returns a line for each key, in columns; those that are not used come last."""
    ordered = sorted(keys, key=lambda key: not key.used)
    rows = [("key", "holds", "becomes"), *((key.name, key.holds, key.becomes) for key in ordered)]
    names, held = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [f"  {name:{names}}  {holds:{held}}  {becomes}" for name, holds, becomes in rows]
