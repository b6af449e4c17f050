"""Counts the episodes whose content is another's, and names the first of them."""

from __future__ import annotations

from typing import NamedTuple

_NAMED = 3


class _First(NamedTuple):
    place: str
    instruction: str
    held_out: bool


class Duplicates:
    """Gets every episode of a dataset; `lines` says which are copies of others."""

    def __init__(self):
        self._firsts: dict[bytes, _First] = {}
        self._repeated: set[bytes] = set()
        self._examples: list[str] = []
        self._copies = self._across = self._other_instruction = 0

    def add(self, content: bytes, place: str, instruction: str, held_out: bool) -> None:
        """Adds an episode.

        Args:
            content: a digest of it.
            place: its file and number, for messages.
            instruction: the sentence given to the robot.
            held_out: whether it is in the validation split.
        """
        first = self._firsts.setdefault(content, _First(place, instruction, held_out))
        if first.place == place:
            return
        self._repeated.add(content)
        self._copies += 1
        self._across += held_out != first.held_out
        self._other_instruction += instruction != first.instruction
        if len(self._examples) < _NAMED:
            self._examples.append(f"{place} is {first.place}")

    def lines(self) -> list[str]:
        """Returns what was found, for people: empty where there are no copies."""
        if not self._copies:
            return []
        more = ", ..." if self._copies > len(self._examples) else ""
        lines = [
            f"{self._copies} episodes are duplicates of {len(self._repeated)} others (same actions, states "
            f"and images): {', '.join(self._examples)}{more}"
        ]
        if count := self._other_instruction:
            lines.append(f"{count} of the duplicates have another instruction than the first")
        if self._across:
            lines.append(
                f"{self._across} of the duplicates are on the other side of the split into training and "
                "validation than the first: what is validated on was trained on"
            )
        return lines
