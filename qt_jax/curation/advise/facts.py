"""The facts of a dataset that decide whether failures help, of the episodes that the config keeps."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from qt_jax import discretization
from qt_jax.curation import shown_episodes
from qt_jax.curation.advise import coverage
from qt_jax.curation.dataset_summary import kinds
from qt_jax.data import index as indices
from qt_jax.data.loader import Recipe
from qt_jax.data.mixture import Source
from qt_jax.data.mixtures import KINDS
from qt_jax.errors import UserError

READ = 300
"""Episodes of each kind that are read, at most; the rest are counted alone."""
STATES = 50
"""States of an episode whose distances are measured, at most, at even distances."""
FEATURES = {
    "demonstrations": "successful demonstrations a task",
    "autonomous": "autonomous episodes a task",
    "autonomous_success": "share of the autonomous episodes that succeed",
    "edge": "share of the successes' actions in the outermost bins",
    "near": "share of the autonomous successes' states that are near demonstrations",
    "by_person": "share of the autonomous episodes' steps at which a person acted",
}
"""{what a rule may ask for: in words}."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Episodes of one kind and one collector.

    Attributes:
        kind: one of `mixtures.KINDS`.
        collector: who acted.
        episodes: how many there are.
        median: of their lengths, in transitions.
        read: how many of them were read, of which the next two are.
        edges: {dim: share of its actions in the first or the last bin}, without dims of two bins.
        near: share of their states near demonstrations (`coverage.near`); None where it is not known.

    """

    kind: str
    collector: str
    episodes: int
    median: float
    read: int
    edges: dict[str, float]
    near: float | None


@dataclasses.dataclass(frozen=True)
class Task:
    """How many episodes of a task there are, and how many of the autonomous ones succeed."""

    name: str
    demonstrations: int
    autonomous: int
    succeed: int


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a dataset holds.

    Attributes:
        groups: by kind, then the most frequent first.
        tasks: the most frequent first.
        state_dim: of the state in which distances are measured; 0: it has none.
        features: {one of `FEATURES`: its value}; None where it is not known.

    """

    groups: list[Group]
    tasks: list[Task]
    state_dim: int
    features: dict[str, float | None]


class _Looked(NamedTuple):
    """Of an episode that was read: which dims are in an outermost bin, bool [T, D], and which states near."""

    edge: np.ndarray
    near: np.ndarray | None


def of_source(recipe: Recipe, source: Source) -> Facts:
    """Counts the episodes of a dataset, those for training and those that are held out, and reads some.

    At most `READ` of each kind are read, spread over the tasks.

    Raises:
        UserError: for play, or a dataset that changed meanwhile.

    """
    if source.spec.pieces is not None:
        raise UserError(f"{source.spec.path} is play, whose episodes are of no task; `advise` takes none.")
    columns = source.index.columns
    source = dataclasses.replace(source, train=np.sort(np.concatenate([source.train, source.validation])))
    looked, groups = _look(recipe, source), []
    for kind, members in kinds(source).items():
        of_kind = source.train[members[source.train]]
        numbers, counts = np.unique(columns["collector"][of_kind], return_counts=True)
        for number in numbers[np.argsort(-counts, kind="stable")]:
            own = of_kind[columns["collector"][of_kind] == number]
            groups.append(_group(source, kind, source.index.collectors[number], own, looked))
    return Facts(groups, _tasks(source), source.spec.observation.state_dim, _features(source, looked))


def _look(recipe: Recipe, source: Source) -> dict[int, _Looked]:
    """Reads the episodes that `shown_episodes.choose` chooses: {number in the index: what was seen}."""
    chosen, edge, states = shown_episodes.choose(source, READ), {}, {}
    last = np.asarray(source.action.bins) - 1
    for _, number in chosen:
        episode = indices.read(
            source.directory, source.index, source.spec, number, recipe.step_penalty, recipe.cache
        )
        tokens = discretization.tokenize(source.action, episode.actions)
        edge[number] = (tokens == 0) | (tokens == last)
        every = np.linspace(0, len(episode.state) - 1, min(STATES, len(episode.state))).round().astype(int)
        states[number] = source.index.statistics["state"].normalize(episode.state[every])

    near: dict[int, np.ndarray] = {}
    task = source.index.columns["task"]
    for name in np.unique(task[source.train]) if source.spec.observation.state_dim else ():
        own = [(kind, number) for kind, number in chosen if task[number] == name]
        others = [number for kind, number in own if kind != KINDS[0]]
        found = coverage.near(
            [states[number] for kind, number in own if kind == KINDS[0]], [states[n] for n in others]
        )
        near |= dict(zip(others, found or ()))
    return {number: _Looked(edge[number], near.get(number)) for number in edge}


def _group(
    source: Source, kind: str, collector: str, episodes: np.ndarray, looked: dict[int, _Looked]
) -> Group:
    read = [looked[number] for number in episodes.tolist() if number in looked]
    edges = {}
    if read:
        edge = np.concatenate([one.edge for one in read]).mean(axis=0)
        dims = zip(source.action.names, source.action.bins, edge)
        edges = {name: float(share) for name, bins, share in dims if bins > 2}
    return Group(
        kind=kind,
        collector=collector,
        episodes=len(episodes),
        median=float(np.median(source.index.columns["length"][episodes])),
        read=len(read),
        edges=edges,
        near=_mean([one.near for one in read if one.near is not None]),
    )


def _tasks(source: Source) -> list[Task]:
    columns, found = source.index.columns, []
    for number, name in enumerate(source.index.tasks):
        own = source.train[columns["task"][source.train] == number]
        if len(own):
            success, demonstration = columns["success"][own], columns["demonstration"][own]
            counts = (success & demonstration, ~demonstration, success & ~demonstration)
            found.append(Task(name, *(int(count.sum()) for count in counts)))
    return sorted(found, key=lambda task: (-task.demonstrations - task.autonomous, task.name))


def _features(source: Source, looked: dict[int, _Looked]) -> dict[str, float | None]:
    columns = source.index.columns
    success, demonstration = (columns[name][source.train] for name in ("success", "demonstration"))
    tasks = len(np.unique(columns["task"][source.train]))
    autonomous = source.train[~demonstration]
    known = autonomous[columns["intervened"][autonomous] >= 0]  # which say at which steps a person acted
    steps = int(columns["length"][known].sum())

    succeeded = [number for number in looked if columns["success"][number]]
    near = [looked[number].near for number in succeeded if not columns["demonstration"][number]]
    several = np.asarray(source.action.bins) > 2
    return {
        "demonstrations": float((success & demonstration).sum() / tasks),
        "autonomous": len(autonomous) / tasks,
        "autonomous_success": float(success[~demonstration].mean()) if len(autonomous) else None,
        "edge": _mean([looked[number].edge[:, several] for number in succeeded]),
        "near": _mean([of_episode for of_episode in near if of_episode is not None]),
        "by_person": float(columns["intervened"][known].sum() / steps) if steps else None,
    }


def _mean(parts: list[np.ndarray]) -> float | None:
    """Returns the mean of all numbers of the parts; None where there is none."""
    numbers = np.concatenate(list(map(np.ravel, parts))) if parts else np.zeros(0)
    return float(numbers.mean()) if len(numbers) else None
