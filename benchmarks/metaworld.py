"""`python -m benchmarks.metaworld tries|grid|benchmark|ablations [NAME ...]`: the runs that are missing of a part, one by one.

tries, grid: of the diagnosis. benchmark: every method on every recipe. ablations: of Q-Transformer, on recipe b. NAME: tries or methods;
none: all of the part. Results are JSON lines in experiments/results/metaworld; stop it at any time.
Pools that are not there are collected first. Each core has runs of its own; on an accelerator `--together=20` makes up to 20 one program.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import fleet, packs, runs
from experiments import metaworld_benchmark, metaworld_diagnosis, metaworld_grid
from experiments.metaworld_recipes import METHODS, RECIPES
from experiments.metaworld_tries import CELLS, TRIES

RESULTS = Path("experiments/results/metaworld")
SEEDS = {"tries": (0, 1, 2), "grid": (0, 1, 2, 3, 4), "benchmark": (0, 1, 2, 3, 4), "ablations": (0, 1, 2, 3, 4)}


def wanted(part: str, names: list[str]) -> tuple[str, dict]:
    """The experiment file and {run: config}."""
    if part == "tries":
        module, runs_of = metaworld_diagnosis, [(f"{agent}.{name}", cell) for cell in CELLS for agent, t in TRIES.items() for name in t]
    elif part == "grid":
        module, runs_of = metaworld_grid, metaworld_grid.names()
    else:
        ablations = part == "ablations"
        cells = ["b"] if ablations else RECIPES
        module, runs_of = metaworld_benchmark, [(name, cell) for cell in cells for name in METHODS if ("." in name) == ablations]
    known = {name for name, _ in runs_of}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"{unknown[0]!r} is none of {part}: {', '.join(sorted(known))}")
    chosen = [f"{name},{cell},{seed}" for seed in SEEDS[part] for name, cell in runs_of if not names or name in names]
    return f"experiments/{module.__name__.split('.')[-1]}.py", {run: module.get_config(run) for run in chosen}


def collect(experiment: str, configs: dict) -> None:
    """The pools of these runs that are not there."""
    for run, config in {config.data.path: (run, config) for run, config in configs.items()}.values():
        if not (Path(config.data.path) / "1.0.0").exists():
            runs.door("collect", f"{experiment}:{run}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=SEEDS)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--pack", action="store_true", help="only write .fleet/PART.pack, for `python -m benchmarks.fleet` elsewhere")
    given = parser.parse_args()
    experiment, configs = wanted(given.part, given.names)
    commit = runs.code_commit("experiments")
    collect(experiment, configs)
    pack, output = Path(".fleet") / f"{given.part}.pack", RESULTS / f"{given.part}.jsonl"
    packs.write(configs, pack, experiment=experiment, commit=commit)
    if not given.pack:
        fleet.run(pack, output, given.together)


if __name__ == "__main__":
    main()
