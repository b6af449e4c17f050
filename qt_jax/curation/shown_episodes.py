"""Chooses episodes of a dataset to look at: a few of each kind, spread over the tasks, always the same."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from qt_jax.curation.dataset_summary import kinds
from qt_jax.curation.score import STEP_VALUES
from qt_jax.data import episodes
from qt_jax.data import index as indices
from qt_jax.data.episodes import Episode
from qt_jax.data.loader import Recipe
from qt_jax.data.mixture import Source


@dataclasses.dataclass(frozen=True)
class Shown:
    """An episode to look at.

    Attributes:
        kind: one of `mixtures.KINDS`.
        place: file and byte (or number) of the record.
        number: of the episode in the index.
        episode: as training reads it.
        returns: [T], which bound the learner's targets.
        values: {name: [T]}, those of `STEP_VALUES` that `score` wrote; {} in other datasets.
    """

    kind: str
    place: str
    number: int
    episode: Episode
    returns: np.ndarray
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def choose(source: Source, count: int) -> list[tuple[str, int]]:
    """Returns (kind, number in the index) of `count` training episodes of each kind.

    They are of as many tasks as possible; among those of a task a hash of their ids chooses.
    """
    columns, chosen = source.index.columns, []
    for kind, members in kinds(source).items():
        candidates = source.train[members[source.train]]
        candidates = candidates[np.argsort(columns["id_hash"][candidates], kind="stable")]
        before: collections.Counter[int] = collections.Counter()
        rank = []  # of each candidate among those of its task
        for task in columns["task"][candidates]:
            rank.append(before[task])
            before[task] += 1
        chosen += [(kind, int(number)) for number in candidates[np.argsort(rank, kind="stable")][:count]]
    return chosen


def read(recipe: Recipe, source: Source, count: int) -> list[Shown]:
    """Reads the episodes that `choose` returns, as training reads them.

    Raises:
        UserError: for a dataset that changed meanwhile.
    """
    shown = []
    for kind, number in choose(source, count):
        directory, index = source.directory, source.index
        shard, position = (int(index.columns[name][number]) for name in ("shard", "position"))
        episode = indices.read(directory, index, source.spec, number, recipe.step_penalty, recipe.cache)
        returns = episodes.monte_carlo_returns(episode, recipe.discount, recipe.dt_ref, recipe.value_range[0])
        steps = indices.record(directory, index, number, recipe.cache)["steps"]
        values = {name: np.asarray(steps[name])[: episode.length] for name in STEP_VALUES if name in steps}
        place = f"{directory.shards[shard].name} at {position}"
        shown.append(Shown(kind, place, number, episode, returns, values))
    return shown
