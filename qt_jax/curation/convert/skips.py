"""Episodes that are left out of a conversion: counted, named, and not more than allowed."""

from __future__ import annotations

import dataclasses
import errno
import re
from collections.abc import Callable, Iterable
from typing import Any

from qt_jax.errors import UserError


@dataclasses.dataclass
class Skips:
    """allowed: --max_skipped. errors: what was wrong with each episode that is left out."""

    allowed: int
    errors: list[UserError] = dataclasses.field(default_factory=list)

    def add(self, error: UserError) -> None:
        """Raises UserError for one more than allowed."""
        self.errors.append(error)
        if len(self.errors) > self.allowed:
            remedy = "Or leave bad episodes out, counted: --max_skipped=N."
            if self.allowed:
                remedy = f"It is bad episode {len(self.errors)}, --max_skipped is {self.allowed}."
            raise UserError(f"{error} {remedy}")

    def none_left(self, name: str) -> UserError:
        """The error of a dataset all of whose episodes are left out."""
        if not self.errors:
            return UserError(f"{name}: the part that --split names holds no episode; give another.")
        return UserError(f"{name}: no episode is left of {len(self.errors)}; the last: {self.errors[-1]}")

    def attempt(self, name: str, read: Callable[[], Any]) -> Any:
        """What `read` gives; None where it is bad, which is counted."""
        try:
            return naming(name, read)
        except UserError as error:
            self.add(error)
            return None

    def lines(self, shown: int = 10) -> list[str]:
        """For people: how many, and the first of them."""
        if not self.errors:
            return []
        more = [f"  and {len(self.errors) - shown} more"] if len(self.errors) > shown else []
        return [
            f"{len(self.errors)} episodes left out:",
            *(f"  {error}" for error in self.errors[:shown]),
            *more,
        ]


def grouped(notes: Iterable[str]) -> list[str]:
    """Notes that differ in their numbers alone as one, with how many there are."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"\d[\d.]*", "#", note), []).append(note)

    def more(alike):
        return f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""

    return [alike[0] + more(alike) for alike in kinds.values()]


def naming(name: str, read: Callable[[], Any]) -> Any:
    """What `read` gives, or a UserError that names the episode that cannot be read."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} {unreadable(error)}") from error


def unreadable(error: Exception) -> str:
    """What is said of an episode or a file after its name: damage only where nothing else was the cause.

    Raises:
        Exception: the error itself, where the file has no part in it.

    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in (
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
    ):
        raise error
    line = (str(error).splitlines() or [""])[0][:200]
    remedy = "the file is damaged or incomplete, copy it again"
    if isinstance(error, PermissionError):
        remedy = "give this account the right to read it"
    return f"cannot be read ({type(error).__name__}: {line}); {remedy}."
