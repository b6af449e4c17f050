"""The datasets of a round: those of config.data, and the episodes of all rounds so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from qt_jax.data import described, mixture
from qt_jax.data.index import Index
from qt_jax.data.tables import Entry
from qt_jax.errors import UserError
from qt_jax.training import datasets


def robot(config: Any, start: tuple[Entry, ...]) -> Entry:
    """Returns the dataset whose robot acts in the rounds.

    Raises:
        UserError: if `config.improve.dataset` names none of those that are trained on, or there are several.

    """
    name = config.improve.dataset
    found = [entry for entry in start if entry.name == name or not name and len(start) == 1]
    if not found:
        names = [entry.name for entry in start]
        raise UserError(
            f"config.improve.dataset is {name!r}; expected whose robot acts, of the datasets {names} of "
            "config.data.mixture."
        )
    return found[0]


def of_round(model: Entry, name: str, path: epath.Path) -> Entry:
    """Returns the dataset of a round, which is read as that of the same robot, `model`.

    Raises:
        UserError: if there is no dataset, or it is of another robot, or its steps are decisions of several
            actions.

    """
    spec = described.spec(str(path))
    count, rest = divmod(spec.action.dims, model.spec.action.dims)
    if count > 1 and not rest and spec.action.names == model.spec.action.repeated(count).names:
        raise UserError(
            f"{path} has decisions of {count} actions each and nothing that was seen between them; a round "
            "trains on every step. Train the first run with config.model.execute=1, which decides at each "
            "step, whatever config.model.chunk is, and record again."
        )
    for what, field in (
        ("actions", lambda spec: list(spec.action.names)),
        ("cameras", lambda spec: sorted(spec.observation.cameras)),
        ("a state of", lambda spec: spec.observation.state_dim),
        ("stored rewards", lambda spec: spec.reward == "stored"),
    ):
        own, expected = field(spec), field(model.spec)
        if own != expected:
            raise UserError(
                f"{path} has {what} {own}, the dataset {model.name!r} has {expected}: it is of another robot "
                "or suite; give its config, or record again."
            )
    spec = dataclasses.replace(spec, action=model.spec.action, achieves=model.spec.achieves)
    return Entry(name, spec, weight=1.0, balance={}, like=model.name)


@dataclasses.dataclass(frozen=True)
class Mixed:
    """The datasets of a round.

    entries: what it trains on; indices: {name: index} of the dataset of each round so far; transitions:
    {name: how many of its transitions are trained on}.
    """

    entries: tuple[Entry, ...]
    indices: dict[str, Index]
    transitions: dict[str, int]


def mixed(config: Any, folders: Mapping[str, epath.Path]) -> Mixed:
    """Mixes what one began with, config.data, and the rounds so far.

    `config.improve.new_share` of the segments are from the rounds, each by its number of transitions, and the
    rest from config.data: half and half by default, as in RLPD (Ball et al. 2023). So what one began with
    keeps its share, however many rounds there are. A round of which `config.data.episodes` keeps nothing is
    left out.

    Args:
        config: the experiment's.
        folders: {name of a round: the directory of its dataset}.

    Raises:
        UserError: as `robot` and `of_round` do.

    """
    start = datasets.entries(config)
    model = robot(config, start)
    rounds = [of_round(model, name, path) for name, path in folders.items()]
    indices, transitions = {}, {}
    for entry in rounds:
        indices[entry.name], transitions[entry.name] = mixture.look(config.data, entry)
    total, share = sum(transitions.values()), config.improve.new_share
    if not total:
        return Mixed(start, indices, transitions)
    old = [dataclasses.replace(entry, weight=entry.weight * (1 - share)) for entry in start]
    new = [
        dataclasses.replace(entry, weight=share * transitions[entry.name] / total)
        for entry in rounds
        if transitions[entry.name]
    ]
    return Mixed((*old, *new), indices, transitions)
