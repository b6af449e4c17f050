"""Several inputs as one: their episodes become one dataset."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qt_jax.curation.convert.bounds import Bounds
from qt_jax.curation.convert.keys import Key, told
from qt_jax.curation.convert.recording import Indexed, Source
from qt_jax.curation.convert.skips import Skips
from qt_jax.errors import UserError

_ALIKE = 3.0
"""Most by which the units of two inputs' deltas may differ: they are measured, and movements lag."""


def merged(sources: Mapping[str, Source]) -> Source:
    """Returns the sources as one, whose episodes are theirs in their order.

    Args:
        sources: {name of the input: what it was opened as}.

    Raises:
        UserError: for inputs whose cameras, states or actions differ, or more bad episodes than are allowed.
    """
    (model, first), *others = sources.items()
    keys = _named(sources)
    with told(lambda: keys):
        for name, source in others:
            _check_alike(model, first, name, source)
    bounds, skips = Bounds(first.action.names), Skips(first.skips.allowed)
    starts = [0]
    for source in sources.values():
        bounds.include(source.bounds)
        starts.append(starts[-1] + source.episodes)
        for error in source.skips.errors:
            skips.add(error)

    def units(part: Callable[[Source], Iterable[Any]]) -> list[tuple[int, Any]]:
        return [(number, unit) for number, source in enumerate(sources.values()) for unit in part(source)]

    return dataclasses.replace(
        first,
        units=units(lambda source: source.units),
        validation=tuple(units(lambda source: source.validation)),
        episodes=starts[-1],
        read=functools.partial(_read, [source.read for source in sources.values()], starts),
        bounds=bounds,
        description="; ".join(source.description for source in sources.values()),
        keys=keys,
        notes=tuple(f"{name}: {note}" for name, source in sources.items() for note in source.notes),
        skips=skips,
    )


def _named(sources: Mapping[str, Source]) -> tuple[Key, ...]:
    """Returns the keys of all sources, with the input before each name."""
    return tuple(
        dataclasses.replace(key, name=f"{name}: {key.name}")
        for name, source in sources.items()
        for key in source.keys
    )


def _check_alike(model: str, first: Source, name: str, second: Source) -> None:
    for what, ours, theirs in _compared(first, second):
        if ours != theirs:
            raise UserError(
                f"{name} has {what} {theirs}, {model} has {ours}, and one dataset holds one kind; choose and "
                "name with --camera, --cameras, --state, --image_size or --action_space, or convert each by "
                "itself and train on a mixture."
            )


def _compared(first: Source, second: Source) -> Iterator[tuple[str, Any, Any]]:
    """Yields (what, ours, theirs) of all that must be alike."""
    for what, field in (
        ("cameras", lambda source: source.observation.cameras),
        ("images of", lambda source: source.observation.image_size),
        ("a state of", lambda source: source.observation.state_description),
        ("actions", lambda source: source.action.names),
    ):
        yield what, field(first), field(second)
    for ours, theirs in zip(first.spaces, second.spaces):
        units = sorted((ours.unit, theirs.unit))
        told = ours.kind and theirs.kind
        if told and (ours.kind != theirs.kind or units[1] > _ALIKE * units[0]):
            yield f"action {ours.name!r}", ours.described(), theirs.described()


def _read(
    reads: list[Callable[[Any], Iterable[Indexed]]], starts: list[int], unit: tuple[int, Any]
) -> Iterator[Indexed]:
    number, own = unit
    for index, episode in reads[number](own):
        place = starts[number] + index
        yield place, episode if isinstance(episode, UserError) else dataclasses.replace(episode, index=place)
