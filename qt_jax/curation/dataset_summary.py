"""Summarises a dataset as the learner will have it: in numbers, and as a text for a terminal."""

from __future__ import annotations

import dataclasses

import numpy as np

from qt_jax import discretization
from qt_jax.data import index as indices
from qt_jax.data import returns
from qt_jax.data.loader import Recipe
from qt_jax.data.mixture import Source
from qt_jax.data.mixtures import KINDS
from qt_jax.data.recorded import AGE
from qt_jax.data.returns import Returns

TOP = 30
"""How many tasks and instructions are listed, the most frequent first."""
LABELS = dict(zip(KINDS, ("successful demonstrations", "other successes", "failures")))
AGED = 300
"""Episodes whose observations' ages are read, at most."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
_NUMBERS = "{:>9}" * 6


@dataclasses.dataclass(frozen=True)
class Dim:
    """A dim of the action or the state; its numbers are mean, std, q01, q99, least, greatest."""

    name: str
    numbers: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ActionDim(Dim):
    """A dim of the action against its bins.

    Attributes:
        low: the lower bound.
        high: the upper bound.
        counts: [bins], sampled actions in each bin.
        below: the share of them below the lower bound, which are clipped into the first bin.
        above: the share of them above the upper bound, which are clipped into the last bin.
    """

    low: float
    high: float
    counts: np.ndarray
    below: float
    above: float

    @property
    def bins(self) -> int:
        """How many bins the dim has."""
        return len(self.counts)

    @property
    def used(self) -> int:
        """How many bins hold a sampled action."""
        return int(np.count_nonzero(self.counts))


@dataclasses.dataclass(frozen=True)
class Summary:
    """A dataset in numbers.

    Attributes:
        name: in the tables.
        weight: its share of the mixture.
        path: its directory.
        file_format: of its files.
        shards: how many files it has.
        size: their bytes.
        training: episodes that are trained on.
        validation: episodes that are held out.
        success: the share of episodes that succeeded.
        kinds: {one of `KINDS`: episodes}.
        lengths: [episodes], in transitions.
        intervened: [episodes], steps at which a person acted; -1: not known.
        dt: {seconds: episodes}.
        tasks: (name, episodes, share of success), the most frequent first.
        collectors: as `tasks`.
        instructions: (instruction, episodes), the most frequent first.
        left_out: episodes that the standardiser leaves out.
        skipped: {reason: bad episodes}.
        returns: of all episodes.
        discount: in words.
        value_range: that of the learner.
        samples: how many sampled steps are behind the actions and the state.
        actions: a dim each.
        state: a dim each.
        state_description: in words.
        splits: the dataset's own parts, in words.
        outliers: bounds that a few values set, in words.
        ages: ms, how old observations were, of training episodes that were read; NaN: not told; None: no
            step of the dataset has an age.
    """

    name: str
    weight: float
    path: str
    file_format: str
    shards: int
    size: int
    training: int
    validation: int
    success: float
    kinds: dict[str, int]
    lengths: np.ndarray
    intervened: np.ndarray
    dt: dict[float, int]
    tasks: list[tuple[str, int, float]]
    collectors: list[tuple[str, int, float]]
    instructions: list[tuple[str, int]]
    left_out: int
    skipped: dict[str, int]
    returns: Returns
    discount: str
    value_range: tuple[float, float]
    samples: int
    actions: list[ActionDim]
    state: list[Dim]
    state_description: str
    splits: list[str]
    outliers: list[str]
    ages: np.ndarray | None

    @property
    def episodes(self) -> int:
        """How many episodes the dataset has."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """How many transitions the dataset has."""
        return int(self.lengths.sum())

    @property
    def median(self) -> float:
        """The median length of an episode, in transitions."""
        return float(np.median(self.lengths))

    @property
    def outside(self) -> int:
        """How many episodes have a return outside the value range."""
        return int(self.returns.outside(self.value_range).sum())


def kinds(source: Source) -> dict[str, np.ndarray]:
    """Returns {one of `KINDS`: bool [episodes]}."""
    success, demonstration = (source.index.columns[name] for name in ("success", "demonstration"))
    return dict(zip(KINDS, (success & demonstration, success & ~demonstration, ~success)))


def summary(recipe: Recipe, source: Source) -> Summary:
    """Summarises a dataset of the recipe's mixture."""
    index, directory = source.index, source.directory
    columns, success = index.columns, index.columns["success"]
    seconds, episodes = np.unique(columns["dt"], return_counts=True)

    def groups(column: str, names: tuple[str, ...]) -> list[tuple[str, int, float]]:
        members = [columns[column] == number for number in range(len(names))]
        found = [(name, int(own.sum()), float(success[own].mean())) for name, own in zip(names, members)]
        return sorted(found, key=lambda row: (-row[1], row[0]))

    counts = np.bincount(columns["instruction"], minlength=len(index.instructions)).tolist()
    return Summary(
        name=source.name,
        weight=source.weight,
        path=directory.path,
        file_format=directory.shards[0].file_format,
        shards=len(directory.shards),
        size=sum(shard.size for shard in directory.shards),
        training=len(source.train),
        validation=len(source.validation),
        success=float(success.mean()),
        kinds={kind: int(members.sum()) for kind, members in kinds(source).items()},
        lengths=columns["length"],
        intervened=columns["intervened"],
        dt=dict(zip(map(float, seconds), map(int, episodes))),
        tasks=groups("task", index.tasks),
        collectors=groups("collector", index.collectors),
        instructions=sorted(zip(index.instructions, counts), key=lambda row: (-row[1], row[0])),
        left_out=index.left_out,
        skipped=index.skipped,
        returns=returns.of_index(index, recipe.step_penalty, recipe.discount, recipe.dt_ref),
        discount=f"{recipe.discount:g} a {recipe.dt_ref:g} s",
        value_range=recipe.value_range,
        samples=len(index.samples["action"]),
        actions=_actions(source),
        state=[Dim(str(i), row) for i, row in enumerate(_rows(source, "state"))],
        state_description=source.spec.observation.state_description,
        splits=source.notes(),
        outliers=source.outliers(),
        ages=_ages(recipe, source),
    )


def _ages(recipe: Recipe, source: Source) -> np.ndarray | None:
    """Reads the ages of at most `AGED` training episodes at even distances, where the steps have them."""
    found = []
    for number in source.train[:: -(-len(source.train) // AGED)].tolist():
        steps = indices.record(source.directory, source.index, number, recipe.cache)["steps"]
        if AGE not in steps:
            return None
        found.append(np.asarray(steps[AGE]))
    return np.concatenate(found)


def _rows(source: Source, name: str) -> list[tuple[float, ...]]:
    statistics = source.index.statistics[name]
    return list(zip(*dataclasses.astuple(statistics)))


def _actions(source: Source) -> list[ActionDim]:
    action, samples = source.action, source.index.samples["action"]
    tokens = discretization.tokenize(action, samples)
    below, above = (side.mean(axis=0) for side in discretization.beyond(action, samples))
    counts = [np.bincount(column, minlength=bins) for column, bins in zip(tokens.T, action.bins)]
    columns = (_rows(source, "action"), action.low, action.high, counts, below.tolist(), above.tolist())
    return list(map(ActionDim, action.names, *columns))


def text(found: Summary) -> str:
    """Returns the summary as a text for a terminal of 140 columns; the page has the rest."""
    lengths = found.lengths
    counts, _ = np.histogram(lengths, bins=min(24, int(np.ptp(lengths)) + 1))
    files = f"{found.shards} x {found.file_format}, {found.size / 2**20:,.1f} MiB"
    by_kind = ", ".join(f"{count:,} {LABELS[kind]}" for kind, count in found.kinds.items())
    spread = f"min {lengths.min()}, median {found.median:g}, max {lengths.max()}"
    lines = [
        f"{found.name}: {found.path}",
        f"  files         {files}; weight {found.weight:.3g} in the mixture",
        f"  episodes      {found.episodes:,}: {by_kind}; {found.success:.1%} successful",
        f"  used          {found.training:,} for training, {found.validation:,} for validation",
        *(f"                {line}" for line in found.splits),
        f"  steps         {found.steps:,}",
        *([f"  people        {people(found)}"] if people(found) else []),
        *([f"  ages          {ages(found)}"] if ages(found) else []),
        f"  lengths       {spread}  |{spark(counts)}|",
        f"  dt            {rates(found)}",
        f"  rewards       {rewards(found)}",
        f"  returns       {discounted(found)}",
    ]
    if found.outside:
        lines.append(f"  value range   {outside(found)}")
    if found.left_out:
        lines.append(f"  left out      {found.left_out:,} by the standardiser")
    lines += [f"  skipped       {count:,}: {reason}" for reason, count in found.skipped.items()]

    names = [name for name, *_ in (*found.tasks[:TOP], *found.collectors[:TOP])]
    names += [name for name, _ in found.instructions[:TOP]]
    width = max(map(len, [*names, "collector"]))
    for what, groups in (("collector", found.collectors), ("task", found.tasks)):
        lines += ["", f"  {what:{width}}{'episodes':>10}{'success':>9}"]
        lines += [f"  {name:{width}}{episodes:>10,}{share:>9.0%}" for name, episodes, share in groups[:TOP]]
    if [name for name, *_ in found.tasks] != [name for name, _ in found.instructions]:
        lines += [_more(found.tasks), f"  {'instruction':{width}}{'episodes':>10}"]
        lines += [f"  {name:{width}}{episodes:>10,}" for name, episodes in found.instructions[:TOP]]
    lines += [_more(found.instructions), *_tables(found)]
    return "\n".join(lines)


def _tables(found: Summary) -> list[str]:
    heads = _NUMBERS.format("mean", "std", "q01", "q99", "least", "greatest")
    width = max(len("action"), *(len(dim.name) for dim in found.actions))
    head = f"{'bounds':>16}{'clipped':>16}{'bins used':>12}  share of bins, of {found.samples:,} steps"
    lines = [f"  {'action':{width}}{heads}   {head}"]
    for dim in found.actions:
        bounds, clipped = f"{dim.low:.3g}, {dim.high:.3g}", f"{dim.below:.1%}, {dim.above:.1%}"
        used = f"{dim.used} of {dim.bins}"
        row = f"{bounds:>16}{clipped:>16}{used:>12}  |{spark(dim.counts)}|"
        lines.append(f"  {dim.name:{width}}{_numbers(dim)}   {row}")
    lines += [f"  worth a look: {line}" for line in found.outliers]
    if found.state:
        lines += ["", f"  {'state':{width}}{heads}   {found.state_description}"]
        lines += [f"  {dim.name:{width}}{_numbers(dim)}" for dim in found.state[:TOP]]
        lines.append(_more(found.state))
    return lines


def people(found: Summary) -> str:
    """Returns at how many steps a person acted, in words; "" where no episode says it."""
    known = found.intervened >= 0
    if not known.any():
        return ""
    acted, steps = int(found.intervened[known].sum()), int(found.lengths[known].sum())
    mixed = int(((found.intervened > 0) & (found.intervened < found.lengths)).sum())
    unknown = f"; {int((~known).sum()):,} episodes do not say it" if not known.all() else ""
    return f"acted at {acted:,} of {steps:,} steps, and took over in {mixed:,} episodes{unknown}"


def ages(found: Summary) -> str:
    """Returns how old observations were when they were decided on, in words; "" where nothing tells it."""
    if found.ages is None:
        return ""
    told = found.ages[np.isfinite(found.ages)]
    unknown = f"; {len(found.ages) - len(told):,} more do not tell it" if len(told) < len(found.ages) else ""
    if not len(told):
        return f"of {len(found.ages):,} observations none is told"
    half, most, nearly = np.percentile(told, (50, 95, 99))
    spread = f"median {half:.3g} ms, 95% {most:.3g}, 99% {nearly:.3g}, greatest {told.max():.3g}"
    return f"of {len(told):,} observations: {spread}{unknown}"


def rates(found: Summary) -> str:
    """Returns how long actions are held, in words."""
    return ", ".join(f"{dt:.4g} s ({1 / dt:.3g} Hz) in {count:,} episodes" for dt, count in found.dt.items())


def rewards(found: Summary) -> str:
    """Returns the spread of the rewards, in words."""
    return f"{_spread(found.returns.rewards)} of a step; {_spread(found.returns.whole)} of an episode"


def discounted(found: Summary) -> str:
    """Returns the spread of the discounted returns, in words."""
    return f"{_spread(found.returns.discounted)}, discounted by {found.discount}"


def outside(found: Summary) -> str:
    """Returns how many episodes the value range does not hold, with the remedy."""
    low, high = found.value_range
    return f"{found.outside:,} episodes have returns outside ({low:g}, {high:g}); set config.value_range"


def _spread(values: np.ndarray) -> str:
    return f"{values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}"


def spark(counts: np.ndarray, columns: int = 32) -> str:
    """Draws counts as a line of blocks, in which even a single count can be seen."""
    columns = min(columns, len(counts))
    heights = np.add.reduceat(counts, np.linspace(0, len(counts), columns, endpoint=False).astype(int))
    return "".join(_BLOCKS[int(np.ceil(8 * height / max(1, heights.max())))] for height in heights)


def _numbers(dim: Dim) -> str:
    return _NUMBERS.format(*(f"{value:.3g}" for value in dim.numbers))


def _more(rows: list) -> str:
    return f"  ... {len(rows) - TOP:,} more\n" if len(rows) > TOP else ""
