"""`python -m benchmarks.claim PART [NAME ...]`: runs what is missing of a part, one by one.

Parts: tries, grid and gates of the diagnosis; benchmark, every method on every recipe without people; people,
the recipes with them; ablations of Q-Transformer, most on recipe b; scene, every method on the second suite;
scene_ablations of Q-Transformer there. NAME is a try or method, or one row or run of it (`q_transformer,a`,
`q_transformer,a,0`); without a name it is the whole part.

Results are JSON lines in experiments/results; stop it at any time. `--output=again.jsonl` runs again what is
there already. Pools that are not there are collected first. Each core has runs of its own; on an accelerator
`--together=20` makes up to 20 one program.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import ml_collections

from benchmarks import fleet, packs, results, runs
from experiments import (
    metaworld_benchmark,
    metaworld_diagnosis,
    metaworld_gates,
    metaworld_grid,
    scene_benchmark,
)
from experiments.metaworld_recipes import (
    ABLATED_ON,
    AUTONOMOUS_OF,
    BENCHMARKED,
    RECIPES,
    SCENE_ABLATED_ON,
    WITH_PEOPLE,
)
from experiments.metaworld_tries import CELLS, PROBES, SEED_0, TRIES
from qt_jax import agents

SEEDS = {
    **{"tries": 3, "grid": 5, "gates": 3, "benchmark": 5, "people": 5, "ablations": 3},
    **{"scene": 3, "scene_ablations": 2},
}
SCENE_RECIPES = ("a", "d", "e")
WITHOUT_PEOPLE = tuple(recipe for recipe in RECIPES if recipe not in AUTONOMOUS_OF)
CURVE = (500, 1000, 1500, 2000)
"""Steps after which the methods are evaluated on recipe b; they are evaluated again at the end."""


def output_of(part: str) -> Path:
    return (results.ALL if part.startswith("scene") else results.METAWORLD) / f"{part}.jsonl"


def wanted(part: str, names: list[str]) -> tuple[str, dict]:
    """Returns the experiment file and {run: config} of a part, or of these names in it."""
    if part == "tries":
        tries = [*(f"{agent}.{name}" for agent, own in TRIES.items() for name in own), *PROBES]
        module, runs_of = metaworld_diagnosis, [(name, cell) for cell in CELLS for name in tries]
    elif part == "grid":
        module, runs_of = metaworld_grid, metaworld_grid.names()
    elif part == "gates":
        module, runs_of = metaworld_gates, metaworld_gates.names()
    elif part == "people":
        module, runs_of = (
            metaworld_benchmark,
            [(name, cell) for cell in AUTONOMOUS_OF for name in WITH_PEOPLE],
        )
    elif part.endswith("ablations"):
        module, ablated = (
            (metaworld_benchmark, ABLATED_ON) if part == "ablations" else (scene_benchmark, SCENE_ABLATED_ON)
        )
        runs_of = [(f"q_transformer.{name}", cell) for name, cells in ablated.items() for cell in cells]
    else:
        module, cells = (
            (scene_benchmark, SCENE_RECIPES) if part == "scene" else (metaworld_benchmark, WITHOUT_PEOPLE)
        )
        runs_of = [(name, cell) for cell in cells for name in BENCHMARKED]
        runs_of.remove(("bc_demonstrations", "e"))  # it has none
    every = [
        f"{name},{cell},{seed}"
        for seed in range(SEEDS[part])
        for name, cell in runs_of
        if not (seed and name in SEED_0)
    ]

    def beginning(name):
        return [run for run in every if f"{run},".startswith(f"{name},")]

    if unknown := [name for name in names if not beginning(name)]:
        places = zip(("names", "recipes or cells", "seeds"), zip(*(run.split(",") for run in every)))
        known = "; ".join(f"{what}: {', '.join(sorted(set(values)))}" for what, values in places)
        raise SystemExit(f"{unknown[0]!r} is none of the {len(every)} runs of {part}. {known}")
    chosen = [run for run in every if not names or any(run in beginning(name) for name in names)]
    return f"experiments/{module.__name__.split('.')[-1]}.py", {run: module.get_config(run) for run in chosen}


def other_decodes(part: str, config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the ways of deciding, beside greedy, with which a run is evaluated at its end."""
    if part == "gates":
        return metaworld_gates.decodes(config)
    if part not in ("benchmark", "people", "scene"):
        return ()
    return ("beam:4", *(("sample:1",) if agents.has_probabilities(config) else ()))


def packed(experiment: str, name: str, configs: dict, **evaluated: Mapping[str, tuple]) -> Path:
    """Writes .fleet/NAME.pack of these runs, {run: config}; collects the pools that are not there."""
    commit, pack = runs.code_commit("experiments"), Path(".fleet") / f"{name}.pack"
    for run, config in configs.items():
        runs.collect(experiment, run, config)
    packs.write(configs, pack, **evaluated, experiment=experiment, commit=commit)
    return pack


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=SEEDS)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--together", type=fleet.positive, default=1, metavar="N")
    parser.add_argument(
        "--pack",
        action="store_true",
        help="only write .fleet/PART.pack, for `python -m benchmarks.fleet` elsewhere",
    )
    parser.add_argument("--output", type=Path, help="file of the results; what it holds is not run again")
    given = parser.parse_args()
    if given.pack and given.together > 1:
        parser.error("--pack runs nothing: give --together to `python -m benchmarks.fleet` there")
    output = given.output or output_of(given.part)
    experiment, configs = wanted(given.part, given.names)
    known = {row["run"] for row in results.rows(output)}
    configs = {run: config for run, config in configs.items() if run not in known}
    if not configs:
        print(f"{output} holds all of these runs; `--output=again.jsonl` runs them again.")
        return
    curves = {run: CURVE for run in configs if given.part == "benchmark" and ",b," in run}
    decodes = {run: other_decodes(given.part, config) for run, config in configs.items()}
    pack = packed(experiment, given.part, configs, curves=curves, decodes=decodes)
    if not given.pack:
        fleet.run(pack, output, given.together)


if __name__ == "__main__":
    main()
