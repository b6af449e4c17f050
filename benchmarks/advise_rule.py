"""`make advise-rule`: fits the rule of `advise` on the benchmark's cells, and tests it on recipes left out.

A cell is a dataset on which methods were trained: its facts, as `advise` counts them, and the success of each
choice, the mean over its seeds by its best way of deciding. The facts are those in
qt_jax/curation/advise/rule.json, or of the pool of seed 0, or of a small one that is collected. The rule
loses in a cell what its choice's success lacks to the best choice's. A choice that was not measured there
counts as the worst one. Imitating what people did is no choice: one recipe alone has it, so that leaving it
out leaves nothing to learn it from.

A rule is the decision list of `CONDITIONS` conditions that loses least over the cells. Each recipe is left
out in turn, with all cells of it on both suites, and the rule that is fitted on the others is tested there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from benchmarks import paired, runs
from experiments import metaworld_benchmark, metaworld_gates, metaworld_grid, scene_benchmark
from qt_jax.curation.advise import facts, rule
from qt_jax.curation.advise.rule import Condition, DecisionList, Figures, Rule
from qt_jax.data import mixture
from qt_jax.training import datasets, setup

MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (metaworld_benchmark, metaworld_gates, metaworld_grid, scene_benchmark)
}
CONDITIONS = {"choice": 2, "balance": 1}
CHOICES = {"choice": tuple(rule.CHOICES), "balance": tuple(rule.BALANCES)}
SMALL = 10
"""Autonomous episodes a task of a pool that is collected for its facts alone."""
SEEDS = 2
"""A method with fewer seeds in a cell is not measured there."""

scores = functools.cache(paired.scores)

Methods = dict[str, tuple[str, str]]
"""{choice: (file of results, method)}"""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a cell comes from.

    experiment: its file; cell: as its runs name it; recipe: with which it is left out; run: whose config says
    what it holds; methods: that are its choices.
    """

    experiment: str
    cell: str
    recipe: str
    run: str
    methods: Methods

    @property
    def name(self) -> str:
        return f"{self.experiment.removesuffix('_benchmark')} {self.cell}"


def _sources() -> list[Source]:
    found = []
    plain = {"imitate_all": "bc_all", "imitate_successes": "bc_successes", "q_transformer": "q_transformer"}
    balances = {"half": "q_transformer", "natural": "q_transformer.natural_batches"}
    for experiment, file, ablations, cells in (
        ("metaworld_benchmark", "metaworld/benchmark.jsonl", "metaworld/ablations.jsonl", "abcd"),
        ("scene_benchmark", "scene.jsonl", "scene_ablations.jsonl", "ad"),
    ):
        methods = {choice: (file, method) for choice, method in plain.items()}
        methods |= {"half": (file, balances["half"]), "natural": (ablations, balances["natural"])}
        found += [Source(experiment, cell, cell, "bc_all", methods) for cell in cells]

    people = plain | {"q_transformer": "q_transformer_dropout"}
    methods = {choice: ("metaworld/people.jsonl", method) for choice, method in people.items()}
    found += [Source("metaworld_benchmark", cell, "i", "bc_all", methods) for cell in "ij"]

    for cell in metaworld_grid.CELLS:
        alone = cell.endswith("none")
        imitated = ("bc.demonstrations",) * 2 if alone else ("bc.all", "bc.successes")
        names = dict(zip(plain, (*imitated, "q_transformer.all")))
        methods = {choice: ("metaworld/grid.jsonl", method) for choice, method in names.items()}
        found.append(Source("metaworld_grid", cell, cell, "q_transformer.all", methods))

    gates = plain | {"imitate_all": "bc_all+dropout", "q_transformer": "q_transformer+dropout"}
    methods = {choice: ("metaworld/gates.jsonl", method) for choice, method in gates.items()}
    for cell, recipe in (("wandering", "wandering"), ("people", "h"), (metaworld_gates.INTERVENTIONS, "i")):
        found.append(Source("metaworld_gates", cell, recipe, "q_transformer", methods))
    return found


@dataclasses.dataclass(frozen=True)
class Cell:
    """A dataset's facts and the success of each choice there; recipe: with which it is left out."""

    recipe: str
    features: dict[str, float | None]
    success: dict[str, float]

    def lost(self, choice: str, among: Sequence[str]) -> float:
        """Returns what a choice lacks to the best of them, in points."""
        known = [self.success[name] for name in among if name in self.success]
        return 100 * (max(known) - self.success.get(choice, min(known)))


def success(methods: Methods, cell: str) -> dict[str, float]:
    """Returns the mean success of each choice that was measured in a cell, by its best way of deciding."""
    found = {}
    for choice, (file, method) in methods.items():
        ways = [
            seeds
            for (name, place), seeds in scores(file).items()
            if place == cell and name.partition(" by ")[0] == method and len(seeds) >= SEEDS
        ]
        if ways:
            found[choice] = max(float(np.mean(list(seeds.values()))) for seeds in ways)
    return found


def features(source: Source) -> dict[str, float | None]:
    """Counts the facts of a cell in the pool of seed 0; where that is not here, in a small one."""
    experiment, run = f"experiments/{source.experiment}.py", f"{source.run},{source.cell},0"
    config, most = MODULES[source.experiment].get_config(run), None
    if config.collect.get("policy", ""):
        runs.collect(experiment, run, config)
    elif not (Path(config.data.path) / "1.0.0").exists():
        most = collect_small(
            f"{experiment}:{run}", config, f"data/advise_rule/{source.experiment}_{source.cell}"
        )
    frozen = ml_collections.FrozenConfigDict(config)
    _, recipe, _ = setup.prepare(frozen, datasets.entries(config), any_returns=True)
    found = facts.of_source(recipe, recipe.mixture.sources[0]).features
    if most is not None:
        found["autonomous"] = float(most)
    return {name: value if value is None else round(value, 4) for name, value in found.items()}


def collect_small(name: str, config: ml_collections.ConfigDict, path: str) -> int:
    """Collects what a config's limits name, with at most `SMALL` autonomous episodes a task.

    The config then has these data.

    Returns:
        How many autonomous episodes a task the limits name.

    """
    limits = mixture.limits(config.data.limits)
    demonstrations = limits.pop(config.collect.demonstrator, 0)
    most = sum(limits.values())
    config.data.path, config.data.limits = path, ()
    settings = {"data.path": path, "collect.demonstrations": demonstrations}
    settings |= {"data.limits": (), "collect.autonomous": min(SMALL, most)}
    settings |= {f"collect.mix.{kind}": limits.get(kind, 0) for kind in config.collect.mix}
    if not (Path(path) / "1.0.0").exists():
        runs.command("collect", name, *(f"--config.{key}={value}" for key, value in settings.items()))
    return most


def fit(cells: Sequence[Cell], choices: Sequence[str], count: int) -> DecisionList:
    """Finds the decision list of at most `count` conditions that loses least; of equal ones the first."""
    lost = np.asarray([[cell.lost(choice, choices) for choice in choices] for cell in cells])
    tests = _tests(cells)
    holds = np.asarray([[test.holds(cell.features) for cell in cells] for test in tests])

    def best(members: np.ndarray) -> tuple[float, str]:
        total = members @ lost
        return float(total.min()), choices[int(total.argmin())]

    least, otherwise = best(np.ones(len(cells), bool))
    found = DecisionList((), otherwise)
    for size in range(1, count + 1):
        for places in itertools.permutations(range(len(tests)), size):
            left, parts = np.ones(len(cells), bool), []
            for place in places:
                parts.append(best(left & holds[place]))
                left &= ~holds[place]
            rest, otherwise = best(left)
            total = sum(part for part, _ in parts) + rest
            if total < least - 1e-9:
                made = [dataclasses.replace(tests[p], then=then) for p, (_, then) in zip(places, parts)]
                least, found = total, DecisionList(tuple(made), otherwise)
    return found


def _tests(cells: Sequence[Cell]) -> list[Condition]:
    """Lists a condition for each way in which a threshold on a feature divides the cells."""
    found, seen = [], set()
    for name in facts.FEATURES:
        values = sorted({cell.features[name] for cell in cells if cell.features[name] is not None})
        for low, high in itertools.pairwise(values):
            for above in (True, False):
                test = Condition(name, above, float((low + high) / 2), "")
                divided = tuple(test.holds(cell.features) for cell in cells)
                if divided not in seen:
                    seen.add(divided)
                    found.append(test)
    return found


def tested(cells: Sequence[Cell], chosen: Sequence[str], choices: Sequence[str]) -> Figures:
    lost = [cell.lost(choice, choices) for cell, choice in zip(cells, chosen)]
    return Figures(right=sum(own < 1e-9 for own in lost), lost=round(float(np.mean(lost)), 2))


def make(cells: Sequence[Cell], kind: str, choices: Sequence[str]) -> Rule:
    """Fits a rule on all cells, and tests it and each constant choice on the recipe that is left out."""
    cells = [cell for cell in cells if sum(choice in cell.success for choice in choices) > 1]
    recipes = sorted({cell.recipe for cell in cells})
    chosen: dict[int, str] = {}
    for recipe in recipes:
        others = fit([cell for cell in cells if cell.recipe != recipe], choices, CONDITIONS[kind])
        chosen |= {n: others.choose(c.features)[0] for n, c in enumerate(cells) if c.recipe == recipe}
    return Rule(
        decides=fit(cells, choices, CONDITIONS[kind]),
        cells=len(cells),
        groups=len(recipes),
        tested=tested(cells, [chosen[number] for number in range(len(cells))], choices),
        constants={name: tested(cells, [name] * len(cells), choices) for name in choices},
    )


def main() -> None:
    kept = json.loads(rule.FILE.read_text())["cells"] if rule.FILE.exists() else {}
    cells: dict[str, Cell] = {}
    for source in _sources():
        known = kept[source.name]["features"] if source.name in kept else features(source)
        cells[source.name] = Cell(source.recipe, known, success(source.methods, source.cell))
    rules = {kind: make(list(cells.values()), kind, choices) for kind, choices in CHOICES.items()}
    content = {kind: own.to_json() for kind, own in rules.items()}
    content["cells"] = {name: dataclasses.asdict(cell) for name, cell in cells.items()}
    rule.FILE.write_text(json.dumps(content, indent=1) + "\n")
    for kind, own in rules.items():
        print(f"{kind}: {own.cells} cells, {own.groups} recipes, each left out in turn")
        for name, figures in {"the rule": own.tested, **own.constants}.items():
            print(f"  {name:20} right in {figures.right:2}, {figures.lost:5.1f} points lost")
        print(f"  fitted on all: {own.decides}")


if __name__ == "__main__":
    main()
