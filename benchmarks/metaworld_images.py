"""`make metaworld-images`: Q-Transformer, behaviour cloning of the successes and the best other method from images, three seeds.

Through the doors that a user has; a finished run is not repeated, an unfinished one goes on. A JSON line a run in
experiments/results/metaworld/images.jsonl, as the state-only runs have them.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import results, runs
from experiments import metaworld_images

EXPERIMENT = "experiments/metaworld_images.py"
METHODS = ("q_transformer", "bc_successes", "decision_transformer")
SEEDS = (0, 1, 2)
RECIPE = "a from images"


def main() -> None:
    commit, output = runs.code_commit("experiments"), results.METAWORLD / "images.jsonl"
    known = {row["run"] for row in results.rows(output)}
    for seed in SEEDS:
        for method in METHODS:
            run = f"{method},{RECIPE},{seed}"
            if run in known:
                continue
            config = metaworld_images.get_config(f"{method},{seed}")
            if not (Path(config.data.path) / "1.0.0").exists():
                runs.door("collect", f"{EXPERIMENT}:{method},{seed}")
            found = runs.train_and_evaluate(f"{EXPERIMENT}:{method},{seed}", Path(config.workdir))
            counts = {task: (round(row["success"] * row["episodes"]), row["episodes"]) for task, row in found["tasks"].items()}
            success = {task: [True] * good + [False] * (count - good) for task, (good, count) in counts.items()}  # in no order
            row = {"run": run, "success": success, "training_minutes": found["training_minutes"], "device": runs.MACHINE}
            results.add(output, row | {"experiment": EXPERIMENT, "commit": commit})


if __name__ == "__main__":
    main()
