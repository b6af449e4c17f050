"""The opened datasets of a run: their indices, which episodes train, and the share of each kind."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from qt_jax import discretization
from qt_jax.data import directories, indexing, outliers
from qt_jax.data.index import Index
from qt_jax.data.mixtures import KINDS
from qt_jax.data.order import Group
from qt_jax.data.segments import Cutting
from qt_jax.data.specs import DatasetSpec, bounded
from qt_jax.data.stored import Stored
from qt_jax.data.tables import Entry, interface, network_observation
from qt_jax.errors import UserError, require_one_of
from qt_jax.specs import INTERVENTION, ActionSpec, Interface

INTERVENTIONS = "demonstrations_and_interventions"
FILTERS = ("all", "successes", "demonstrations", "demonstrations_and_failures", INTERVENTIONS)
ACTION_BOUNDS = ("spec", "quantiles")


@dataclasses.dataclass(frozen=True)
class Source:
    """One dataset of the mixture.

    action: the spec's, with the bounds that the config asks for; weight: the dataset's share of the segments;
    balance: {kind: share within it}; train, validation: numbers of the episodes in the index; like: as in
    `Entry`.
    """

    name: str
    spec: DatasetSpec
    directory: Stored
    index: Index
    action: ActionSpec
    weight: float
    balance: dict[str, float]
    train: np.ndarray
    validation: np.ndarray
    like: str = ""

    def clipped(self) -> np.ndarray:
        """Returns the share of the sampled actions outside the bins' range, [D]."""
        below, above = discretization.beyond(self.action, self.index.samples["action"])
        return np.mean(below | above, axis=0)

    def notes(self) -> list[str]:
        """Returns what a person should know: a line for each note of the spec and each split."""
        return [*self.spec.notes, *self.directory.splits()]

    def outliers(self) -> list[str]:
        """Returns a line for each outlier of the actions' bounds and of the states."""
        samples, statistics = self.index.samples, self.index.statistics
        actions = outliers.lines(self.action, samples["action"], self._extreme)
        return actions + outliers.of_states(samples["state"], statistics["state"])

    def _extreme(self, dim: int, greatest: bool) -> tuple[float, str]:
        statistics = self.index.statistics["action"]
        return (statistics.high if greatest else statistics.low)[dim], ""

    def bins_used(self) -> np.ndarray:
        """Returns how many bins of each dim hold a sampled action, [D]."""
        tokens = discretization.tokenize(self.action, self.index.samples["action"])
        return np.asarray([len(np.unique(column)) for column in tokens.T])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The datasets of a run, and the interface of a network for all of them."""

    sources: tuple[Source, ...]
    interface: Interface
    text_encoder: str

    @property
    def fingerprint(self) -> str:
        """A digest that changes with the number, order, actions or rewards of the training episodes."""
        parts = [
            (s.name, s.index.fingerprint, hashlib.sha256(s.train.tobytes()).hexdigest()) for s in self.sources
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def success(self) -> dict[str, dict[str, float]]:
        """Returns {task or "all": {"success": share, "episodes": count}} of all sources, before filters."""
        outcomes: dict[str, list[np.ndarray]] = {"all": []}
        for source in self.sources:
            outcomes["all"].append(source.index.columns["success"])
            for name, flags in source.index.outcomes.items():
                outcomes.setdefault(name, []).append(flags)
        joined = {name: np.concatenate(parts) for name, parts in sorted(outcomes.items())}
        return {
            name: {"success": float(flags.mean()), "episodes": len(flags)} for name, flags in joined.items()
        }


def open_mixture(settings: Any, entries: Sequence[Entry]) -> Mixture:
    """Opens the datasets and reads or makes their indices.

    The validation split is part k of n of the episodes with `settings.fold`, else the dataset's own, if it
    has one. Otherwise a hash of the episode's id decides, as it does of the parts, so that the split stays
    the same under filters, another order and more data.

    Args:
        settings: `config.data`.
        entries: the datasets.

    Raises:
        UserError: for data that is missing, damaged, or without an episode that the filter keeps.

    """
    for name, known in (("episodes", FILTERS), ("action_bounds", ACTION_BOUNDS)):
        require_one_of(f"config.data.{name}", settings[name], known)
    network_observation(entries, settings.image_size)  # raises before indices are made, which may take hours
    opened = {entry.name: _open(settings, entry) for entry in entries}
    sources = _with_notes(
        [
            dataclasses.replace(source, action=opened[source.like].action) if source.like else source
            for source in opened.values()
        ]
    )
    instruction_dim = sources[0].index.embeddings.shape[1]
    joint = interface(entries, settings.image_size, instruction_dim)
    return Mixture(sources, joint, settings.text_encoder)


def _with_notes(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Notes at a source what it shares with one before it.

    That is the same files, or dims of one name that are deltas in one of the two and absolute in the other.
    """
    seen: dict[str, tuple[str, str]] = {}
    of_path: dict[str, str] = {}
    noted = []
    for source in sources:
        spaces = source.directory.metadata.get("action_space", {})
        notes = [
            f"its action {name!r} is {about['space']}, that of {seen[name][0]} is {seen[name][1]}, and dims "
            "of one name share an output of the network: name them apart with `convert --action_names`, or "
            "make them alike with --action_space"
            for name, about in spaces.items()
            if name in seen and seen[name][1] != about["space"]
        ]
        seen |= {name: (source.name, about["space"]) for name, about in spaces.items() if name not in seen}
        if (first := of_path.setdefault(str(source.directory.path), source.name)) != source.name:
            notes.append(f"its files are those of {first} too, so that their episodes are drawn for both")
        spec = dataclasses.replace(source.spec, notes=(*source.spec.notes, *notes))
        noted.append(dataclasses.replace(source, spec=spec))
    return tuple(noted)


def look(settings: Any, entry: Entry) -> tuple[Index, int]:
    """Returns a dataset's index, and how many of its transitions `settings` train on, which may be none.

    Args:
        settings: `config.data`.
        entry: the dataset.

    """
    _, index, train, _ = _chosen(settings, entry)
    return index, int(index.columns["length"][train].sum())


def _open(settings: Any, entry: Entry) -> Source:
    directory, index, train, validation = _chosen(settings, entry)
    if not len(train):
        raise UserError(
            f"{entry.spec.path} holds no training episode with config.data.episodes={settings.episodes!r}; "
            "collect more or loosen the filter."
        )
    return Source(
        name=entry.name,
        spec=entry.spec,
        directory=directory,
        index=index,
        action=_bounded(entry, index, settings.action_bounds == "quantiles"),
        weight=entry.weight,
        balance=entry.balance,
        train=train,
        validation=validation,
        like=entry.like,
    )


def _chosen(settings: Any, entry: Entry) -> tuple[Stored, Index, np.ndarray, np.ndarray]:
    """Returns a dataset and its index, and which episodes are trained on and which are held out."""
    if settings.relabel_rate and entry.spec.pieces is not None:
        raise UserError(
            f"config.data.relabel_rate is {settings.relabel_rate:g}, and {entry.name} is play, which is an "
            "episode of every task already; set it to 0."
        )
    directory = directories.open_dataset(entry.spec.path)
    index = indexing.load(
        directory, entry.spec, step_penalty=settings.step_penalty, text_encoder=settings.text_encoder,
        max_skipped=settings.max_skipped, workers=settings.workers, cache=settings.cache,
    )  # fmt: skip

    columns = index.columns
    success, demonstration = columns["success"], columns["demonstration"]
    kept = {
        "all": np.full(len(index), True),
        "successes": success,
        "demonstrations": demonstration,
        "demonstrations_and_failures": demonstration | ~success,
        INTERVENTIONS: demonstration | (columns["intervened"] > 0),
    }[settings.episodes]
    if settings.episodes == INTERVENTIONS:
        _check_interventions(index, entry.spec.path)
    held_out = _held_out(settings, directory, columns)
    kept = kept & (_within_limits(index, settings.limits, ~held_out, entry.spec.path) | held_out)
    return directory, index, np.flatnonzero(kept & ~held_out), np.flatnonzero(kept & held_out)


def _check_interventions(index: Index, path: str) -> None:
    """Raises a UserError if episodes in which a person took over do not say at which steps."""
    if INTERVENTION not in index.collectors:
        return
    mixed = index.columns["collector"] == index.collectors.index(INTERVENTION)
    if unknown := int((mixed & (index.columns["intervened"] < 0)).sum()):
        raise UserError(
            f"{path} has {unknown} episodes of {INTERVENTION!r} that do not say at which steps a person "
            f"acted, which config.data.episodes={INTERVENTIONS!r} needs; collect or convert them again."
        )


def _held_out(settings: Any, directory: Stored, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns bool [episodes]: which are for validation."""
    if settings.fold:
        fold, folds = settings.fold
        return fold_of(columns["id_hash"], folds) == fold
    own = directory.own_validation()
    return own[columns["shard"]] if own.any() else columns["id_hash"] < settings.validation_fraction


def fold_of(id_hash: np.ndarray, folds: int) -> np.ndarray:
    """Returns which of `folds` parts of about equal size each episode is in, [episodes], by its `id_hash`."""
    return (id_hash * folds).astype(np.int64)


def limits(entries: Sequence[str]) -> dict[str, int]:
    """Parses `config.data.limits`: ("demonstration=10", ...) to {"demonstration": 10, ...}.

    Raises:
        UserError: for an entry that is not a collector's name, `=` and a count.

    """
    parsed = {name: count for name, _, count in (entry.partition("=") for entry in entries)}
    if bad := [entry for entry in entries if not entry.partition("=")[2].isdigit()]:
        raise UserError(f"config.data.limits has {bad}; expected entries such as 'demonstration=10'.")
    return {name: int(count) for name, count in parsed.items()}


def _within_limits(index: Index, entries: Sequence[str], eligible: np.ndarray, path: str) -> np.ndarray:
    """Returns bool [episodes]: which eligible episodes `config.data.limits` keeps.

    They are the first of each task and collector, in the dataset's order, so a smaller limit keeps a part of
    what a larger one keeps. Without entries all are kept, with entries none of the collectors not named.
    """
    most = limits(entries)
    if not most:
        return eligible
    if unknown := sorted(set(most) - set(index.collectors)):
        raise UserError(
            f"config.data.limits names the collectors {unknown}; {path} has {sorted(index.collectors)}."
        )

    kept = np.zeros(len(index), bool)
    for number, name in enumerate(index.collectors):
        for task in range(len(index.tasks)):
            chosen = (index.columns["collector"] == number) & (index.columns["task"] == task) & eligible
            kept[np.flatnonzero(chosen)[: most.get(name, 0)]] = True
    return kept


def _bounded(entry: Entry, index: Index, quantiles: bool) -> ActionSpec:
    """Returns the dataset's action: with the spec's bounds or the data's, or those of 1% and 99% quantiles.

    The bounds stay for a dim of two bins, which are states and not amounts, and for a constant one.
    """
    spec, statistics = entry.spec.action, index.statistics["action"]
    if entry.spec.bounds == "data":
        spec = bounded(spec, np.asarray(statistics.low), np.asarray(statistics.high))
    if not quantiles:
        return spec
    low, high = list(spec.low), list(spec.high)
    for dim, (least, greatest) in enumerate(zip(statistics.q01, statistics.q99)):
        if spec.bins[dim] > 2 and least < greatest:
            low[dim], high[dim] = least, greatest
    return dataclasses.replace(spec, low=tuple(low), high=tuple(high))


def groups(mixture: Mixture, cutting: Cutting) -> tuple[Group, ...]:
    """Returns the groups that the loader draws from: each source, divided into kinds if it has a balance.

    Raises:
        UserError: for a share of a kind that a source does not have.

    """
    result = []
    for number, source in enumerate(mixture.sources):
        lengths = source.index.columns["length"][source.train]
        cuts = np.asarray([len(cutting.starts(length)) for length in range(lengths.max() + 1)])[lengths]
        for members, share in _kinds(source, cuts):
            if share > 0:
                result.append(Group(number, source.train[members], cuts[members], source.weight * share))
    return tuple(result)


def _kinds(source: Source, cuts: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Returns (positions in `source.train`, share of its segments) of each kind; one kind if no balance."""
    if not source.balance:
        return [(np.arange(len(source.train)), 1.0)]

    columns = source.index.columns
    success, demonstration = columns["success"][source.train], columns["demonstration"][source.train]
    is_kind = (success & demonstration, success & ~demonstration, ~success)
    members = dict(zip(KINDS, map(np.flatnonzero, is_kind)))
    for kind, share in source.balance.items():
        if share > 0 and not len(members[kind]):
            raise UserError(
                f"The balance of {source.name} asks for a share of {share:g} {kind}, but {source.spec.path} "
                f"has none among its {len(source.train)} training episodes; set it to 0 or None (in "
                "config.data.balance, or in the mixture's `Share`)."
            )

    rest = {kind: float(cuts[group].sum()) for kind, group in members.items() if kind not in source.balance}
    left = 1.0 - sum(source.balance.values())
    total = sum(rest.values())
    if left > 1e-6 and not total:
        raise UserError(
            f"The balance of {source.name} leaves {left:.0%} to {sorted(rest)}, of which {source.spec.path} "
            "has no training episode; let the shares sum to 1 (in config.data.balance, or in the mixture's "
            "`Share`)."
        )
    shares = dict(source.balance) | {kind: left * size / total for kind, size in rest.items() if total}
    return [(members[kind], share) for kind, share in shares.items()]
