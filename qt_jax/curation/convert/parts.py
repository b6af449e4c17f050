"""Which episodes of an input are written: its own parts (splits, masks), or lists of episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qt_jax.curation.convert import keys
from qt_jax.curation.convert.keys import Key
from qt_jax.curation.convert.settings import Settings
from qt_jax.errors import UserError

_FILE = "@"
"""First letter of a flag that names a file of episodes, one a line."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """The episodes that are written, of all that there are.

    Attributes:
        named: the input's own parts, {name: episodes}.
        listed: {flag with its value: episodes} of flags that list them.
        everything: all episodes.
        training: those of the split `train`.
        validation: those of the split `validation`.
    """

    named: dict[str, frozenset[Any]]
    listed: dict[str, frozenset[Any]]
    everything: frozenset[Any]
    training: frozenset[Any]
    validation: frozenset[Any]

    @property
    def written(self) -> frozenset[Any]:
        """The episodes of both splits."""
        return self.training | self.validation


@dataclasses.dataclass(frozen=True)
class Words:
    """How a format speaks of its episodes.

    Attributes:
        parts: its word for parts, such as "splits".
        example: of a list of episodes.
        find: returns the episodes that a word of such a list means; none for an unknown one.
    """

    parts: str
    example: str
    find: Callable[[str], set[Any]]


def choose(
    settings: Settings, named: Mapping[str, set[Any]], everything: set[Any], words: Words, name: str
) -> Parts:
    """Chooses the episodes of --split for training, and those of --validation to be held out.

    Without --split, training gets what --validation leaves.

    Args:
        settings: of the conversion.
        named: the input's own parts, {name: episodes}.
        everything: all episodes.
        words: the format's.
        name: of the input, for messages.

    Raises:
        UserError: for an episode or a part that is not there, or that both flags name, or if some part holds
            episodes out and no flag says what to take.
    """
    counts = ", ".join(f"{part} ({len(episodes)})" for part, episodes in named.items())
    listed: dict[str, frozenset[Any]] = {}

    def chosen(flag: str, value: str) -> set[Any]:
        if value in named:
            return named[value]
        found: set[Any] = set()
        for word in _words(flag, value):
            if not (episodes := words.find(word)):
                raise UserError(
                    f"--{flag} is {value!r}; {name} has {words.parts} {counts or 'none'}, and no {word!r}; "
                    f"expected one of them, all, or episodes such as {words.example}."
                )
            found |= episodes
        listed[f"--{flag}={value}"] = frozenset(found)
        return found

    held_out = chosen("validation", settings.validation) if settings.validation else set()
    rest = everything - held_out
    if settings.split and settings.split != "all":
        training = chosen("split", settings.split)
        if both := training & held_out:
            raise UserError(
                f"{name}: --split={settings.split} and --validation={settings.validation} both hold "
                f"{len(both)} episodes, among them {min(map(str, both))}; an episode is of one split alone."
            )
    else:
        training = rest
        full = [episodes for episodes in named.values() if episodes]
        others = [episodes - held_out for episodes in full if not episodes <= held_out]
        if not settings.split and (any(other != rest for other in others) or (named and not full)):
            raise UserError(
                f"{name} has {words.parts} {counts} of its {len(everything)} episodes; give "
                f"--split={next(iter(named))}, another of them, or --split=all, and --validation for those "
                "that are to be held out."
            )
    frozen = {part: frozenset(episodes) for part, episodes in named.items()}
    return Parts(frozen, listed, frozenset(everything), frozenset(training), frozenset(held_out))


def _words(flag: str, value: str) -> list[str]:
    """Returns the episodes that a flag lists, or those in the file that it names: one a line, # comments."""
    if not value.startswith(_FILE):
        return [word.strip() for word in value.split(",")]
    try:
        lines = Path(value.removeprefix(_FILE)).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--{flag}={value} cannot be read ({type(error).__name__}); give a text file."
        ) from error
    words = map(str.strip, lines)
    return [word for word in words if word and not word.startswith("#")]


def rows(parts: Parts, kind: str) -> list[Key]:
    """Returns what becomes of each part: the input's own, whose names get `kind` before them, and lists."""
    found = []
    named = {kind + name: episodes for name, episodes in parts.named.items()}
    for name, episodes in (named | parts.listed).items():
        counts = {"training": len(episodes & parts.training), "validation": len(episodes & parts.validation)}
        roles = [f"{role} ({count})" for role, count in counts.items() if count]
        holds = f"{len(episodes)} of {len(parts.everything)} episodes"
        found.append(keys.described(name, holds, roles, "--split and --validation name others"))
    return found
