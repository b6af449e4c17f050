"""Bad episodes that a conversion leaves out: counted, named, and no more than allowed."""

from __future__ import annotations

import dataclasses
import errno
import re
from collections.abc import Callable, Iterable
from typing import Any

from qt_jax.errors import UserError


@dataclasses.dataclass
class Skips:
    """The episodes that are left out.

    Attributes:
        allowed: --max_skipped.
        errors: what was wrong with each of them.
    """

    allowed: int
    errors: list[UserError] = dataclasses.field(default_factory=list)

    def add(self, error: UserError) -> None:
        """Counts an episode; raises UserError for one more than allowed."""
        self.errors.append(error)
        if len(self.errors) > self.allowed:
            remedy = "Or leave bad episodes out, counted: --max_skipped=N."
            if self.allowed:
                remedy = f"It is bad episode {len(self.errors)}, --max_skipped is {self.allowed}."
            raise UserError(f"{error} {remedy}")

    def none_left(self, name: str) -> UserError:
        """Returns the error of a dataset of which all episodes are left out."""
        if not self.errors:
            return UserError(f"{name}: the part that --split names holds no episode; give another.")
        return UserError(f"{name}: no episode is left of {len(self.errors)}; the last: {self.errors[-1]}")

    def attempt(self, name: str, read: Callable[[], Any]) -> Any:
        """Returns what `read` returns; None where it raises, which is counted."""
        try:
            return naming(name, read)
        except UserError as error:
            self.add(error)
            return None

    def lines(self, shown: int = 10) -> list[str]:
        """Returns how many are left out, and what was wrong with the first of them, a line each."""
        if not self.errors:
            return []
        lines = [f"{len(self.errors)} episodes left out:"]
        lines += [f"  {error}" for error in self.errors[:shown]]
        if len(self.errors) > shown:
            lines.append(f"  and {len(self.errors) - shown} more")
        return lines


def grouped(notes: Iterable[str]) -> list[str]:
    """Returns one note of those that differ in their numbers alone, with how many more there are."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"\d[\d.]*", "#", note), []).append(note)

    def more(alike):
        return f" (and {len(alike) - 1} more like it)" if len(alike) > 1 else ""

    return [alike[0] + more(alike) for alike in kinds.values()]


def naming(name: str, read: Callable[[], Any]) -> Any:
    """Returns what `read` returns; any error becomes a UserError that names the episode."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} {unreadable(error)}") from error


def unreadable(error: Exception) -> str:
    """Returns the rest of a message that begins with the name of an episode or a file.

    Raises:
        Exception: the error itself, where not the file but the machine is its cause.
    """
    of_machine = (errno.EMFILE, errno.ENFILE, errno.ENOSPC)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in of_machine:
        raise error
    line = (str(error).splitlines() or [""])[0][:200]
    remedy = "the file is damaged or incomplete, copy it again"
    if isinstance(error, PermissionError):
        remedy = "give this account the right to read it"
    return f"cannot be read ({type(error).__name__}: {line}); {remedy}."
