"""`python -m benchmarks.metaworld_images [METHOD,RECIPE,SEED ...]`: the benchmark from images.

Without names all of it: Q-Transformer, behaviour cloning of the successes and the best other method, three
seeds. It uses the commands that a user has, and an unfinished run goes on. A JSON line a run in
experiments/results/metaworld/images.jsonl, as the state-only runs have them. `--output=again.jsonl` runs
again what is there already, where runs/metaworld_images does not have it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import results, runs
from experiments import metaworld_images

EXPERIMENT = "experiments/metaworld_images.py"
METHODS = ("q_transformer", "bc_successes", "decision_transformer")
RECIPES = ("a", "e")
SEEDS = (0, 1, 2)


def main() -> None:
    every = [f"{method},{recipe},{seed}" for recipe in RECIPES for seed in SEEDS for method in METHODS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="METHOD,RECIPE,SEED")
    parser.add_argument("--output", type=Path, default=results.METAWORLD / "images.jsonl")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in every]:
        parser.error(f"{unknown[0]!r} is none of {' '.join(every)}")
    commit, known = runs.code_commit("experiments"), {row["run"] for row in results.rows(given.output)}
    wanted = {name: _row(name) for name in given.names or every}
    if known.issuperset(wanted.values()):
        print(f"{given.output} holds all of these runs; `--output=again.jsonl` runs them again.")
    for name, run in wanted.items():
        if run in known:
            continue
        config = metaworld_images.get_config(name)
        runs.collect(EXPERIMENT, name, config)
        found = runs.train_and_evaluate(f"{EXPERIMENT}:{name}", Path(config.workdir))
        success = {task: runs.episodes(row) for task, row in found["tasks"].items()}
        facts = {"training_minutes": found["training_minutes"], "device": runs.MACHINE}
        facts |= {"experiment": EXPERIMENT, "commit": commit}
        results.add(given.output, {"run": run, "success": success} | facts)


def _row(name: str) -> str:
    method, recipe, seed = name.split(",")
    return f"{method},{recipe} from images,{seed}"


if __name__ == "__main__":
    main()
