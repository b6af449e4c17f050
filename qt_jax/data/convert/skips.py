"""Episodes that are left out of a conversion: counted, named, and not more than allowed."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable
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
            more = (
                f"It is bad episode {len(self.errors)}, --max_skipped is {self.allowed}."
                if self.allowed
                else ""
            )
            raise UserError(f"{error} {more or 'Or leave bad episodes out, counted: --max_skipped=N.'}")

    def none_left(self, name: str) -> UserError:
        """The error of a dataset all of whose episodes are left out."""
        why = self.errors[-1] if self.errors else "Give another --split."
        return UserError(f"{name}: no episode is left of {len(self.errors)}; the last: {why}")

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


def grouped(notes: list[str]) -> list[str]:
    """Notes that differ in their numbers alone as one, with how many there are."""
    kinds = collections.Counter(re.sub(r"\d+", "#", note) for note in notes)
    first: dict[str, str] = {}
    for note in notes:
        first.setdefault(re.sub(r"\d+", "#", note), note)
    return [
        note + (f" (and {kinds[kind] - 1} more like it)" if kinds[kind] > 1 else "")
        for kind, note in first.items()
    ]


def naming(name: str, read: Callable[[], Any]) -> Any:
    """What `read` gives, or a UserError that names the damaged episode."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"{name} cannot be read ({type(error).__name__}: {line}); the file is damaged or incomplete, "
            "copy it again."
        ) from error
