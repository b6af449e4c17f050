"""`make metaworld-eyes`: what pretrained eyes are worth, at equal steps and at equal time, three seeds.

First every encoder of experiments/metaworld_eyes.py for the same steps. Then each pretrained one again, for
as many steps as fit the time that the patch encoder trained with that seed; the features' computation, once a
dataset, is not counted. It uses the commands that a user has, and an unfinished run goes on. A JSON line a
run in experiments/results/metaworld/eyes.jsonl; prints the means. `--smoke` takes two steps of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results, runs
from experiments import metaworld_eyes

EXPERIMENT = "experiments/metaworld_eyes.py"
SEEDS = (0, 1, 2)
OUTPUT = results.METAWORLD / "eyes.jsonl"
SMOKE = (
    "--config.train.steps=2",
    "--config.collect.autonomous=6",
    "--config.collect.demonstrations=2",
    "--config.data.path=data/metaworld_eyes_smoke",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true")
    if parser.parse_args().smoke:
        return smoke()
    commit = runs.code_commit("experiments")
    for seed in SEEDS:
        for eyes in metaworld_eyes.EYES:
            steps = metaworld_eyes.get_config(f"{eyes},{seed}").train.steps
            run(eyes, "equal steps", seed, steps, commit)
        for eyes in list(metaworld_eyes.EYES)[1:]:
            run(eyes, "equal time", seed, steps_in_time(eyes, seed), commit)
    table()


def known() -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in results.rows(OUTPUT)}


def steps_in_time(eyes: str, seed: int) -> int:
    """Returns the steps of an encoder that take as long as the run of the patch encoder, in hundreds."""
    own, patch = (known()[f"{name},equal steps,{seed}"] for name in (eyes, "patch"))
    return max(100, round(own["steps"] * patch["training_minutes"] / own["training_minutes"] / 100) * 100)


def run(eyes: str, budget: str, seed: int, steps: int, commit: str) -> None:
    """Trains and evaluates a run that the results do not have yet."""
    name = f"{eyes},{budget},{seed}"
    if name in known():
        return
    config = metaworld_eyes.get_config(f"{eyes},{seed}")
    runs.collect(EXPERIMENT, f"{eyes},{seed}", config)
    workdir = Path(config.workdir + ("_time" if budget == "equal time" else ""))
    settings = (f"--config.train.steps={steps}", f"--config.train.checkpoint_every={steps}")
    found = runs.train_and_evaluate(f"{EXPERIMENT}:{eyes},{seed}", workdir, *settings)
    success = {task: runs.episodes(row) for task, row in found["tasks"].items()}
    facts = {"training_minutes": found["training_minutes"], "device": runs.MACHINE, "commit": commit}
    results.add(OUTPUT, {"run": name, "success": success, "steps": steps} | facts)


def table() -> None:
    """Prints the mean success of each encoder and budget over seeds and tasks."""
    cells: dict[str, list[float]] = {}
    for name, row in known().items():
        success = float(np.mean([np.mean(episodes) for episodes in row["success"].values()]))
        cells.setdefault(name.rpartition(",")[0], []).append(success)
    for name, values in cells.items():
        print(f"{name}: mean success {np.mean(values):.0%}, seeds {', '.join(f'{x:.0%}' for x in values)}")


def smoke() -> None:
    """Takes two steps with each encoder on a few episodes of their own."""
    for eyes in metaworld_eyes.EYES:
        if not Path("data/metaworld_eyes_smoke/1.0.0").exists():
            runs.command("collect", f"{EXPERIMENT}:{eyes},0", *SMOKE)
        runs.command(
            "train", f"{EXPERIMENT}:{eyes},0", *SMOKE, f"--config.workdir=runs/metaworld_eyes_smoke/{eyes}"
        )


if __name__ == "__main__":
    main()
