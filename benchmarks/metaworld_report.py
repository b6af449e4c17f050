"""`make metaworld-report`: benchmark.jsonl and ablations.jsonl in experiments/results/metaworld -> table.md and the figures in docs/images.

Runs in a venv of its own (rliable's plots want an older pandas). A run's score is its success over a task's evaluation episodes; intervals
are rliable's 95% stratified bootstrap over runs (seeds) and tasks (Agarwal et al. 2021).
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from rliable import library, metrics

RESULTS = Path("experiments/results/metaworld")
IMAGES = Path("docs/images")
OURS = "q_transformer"
REPETITIONS = 5000


def scores() -> dict[str, dict[str, np.ndarray]]:
    """{recipe: {method: success [seeds, tasks]}}, of the seeds that every method has on the recipe."""
    found: dict[str, dict[str, dict[int, list[float]]]] = collections.defaultdict(lambda: collections.defaultdict(dict))
    for run in runs():
        method, recipe, seed = run["run"].split(",")
        found[recipe][method][int(seed)] = [float(np.mean(episodes)) for _, episodes in sorted(run["success"].items())]
    result = {}
    for recipe, methods in sorted(found.items()):
        common = sorted(set.intersection(*(set(seeds) for seeds in methods.values())))
        result[recipe] = {method: np.asarray([seeds[seed] for seed in common]) for method, seeds in methods.items()}
    return result


def runs() -> list[dict[str, Any]]:
    """Of both files."""
    files = [RESULTS / f"{part}.jsonl" for part in ("benchmark", "ablations")]
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]


def interval(by_method: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """IQM of each method and its 95% interval [low, high]."""
    points, intervals = library.get_interval_estimates(
        by_method, lambda x: np.asarray([metrics.aggregate_iqm(x), metrics.aggregate_mean(x)]), reps=REPETITIONS
    )
    return points, intervals


def table(found: dict[str, dict[str, np.ndarray]]) -> str:
    methods = sorted({method for by_method in found.values() for method in by_method}, key=lambda name: (name != OURS, name))
    lines = ["| method | " + " | ".join(f"{recipe}, IQM (mean)" for recipe in found) + " |", "|---" * (len(found) + 1) + "|"]
    estimates = {recipe: interval(by_method) for recipe, by_method in found.items()}
    for method in methods:
        cells = []
        for points, intervals in estimates.values():
            if method not in points:
                cells.append("not run")
                continue
            (iqm, mean), (low, high) = points[method], intervals[method][:, 0]
            cells.append(f"{iqm:.0%} [{low:.0%}, {high:.0%}] ({mean:.0%})")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    seeds = ", ".join(f"{recipe}: {len(next(iter(by_method.values())))}" for recipe, by_method in found.items())
    return "\n".join([*lines, "", f"Seeds: {seeds}.", ""])


def improvement(found: dict[str, dict[str, np.ndarray]]) -> None:
    """Probability that a run of ours is above one of the other method on a task."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.4 * len(found), 3.0), squeeze=False, layout="constrained", sharey=True)
    for axis, (recipe, by_method) in zip(axes[0], found.items()):
        pairs = {other: (by_method[OURS], x) for other, x in by_method.items() if other != OURS and "." not in other}
        points, intervals = library.get_interval_estimates(pairs, metrics.probability_of_improvement, reps=REPETITIONS // 5)
        names = sorted(pairs, reverse=True)
        middle = np.asarray([np.ravel(points[name])[0] for name in names])
        low, high = np.asarray([np.ravel(intervals[name]) for name in names]).T
        axis.errorbar(middle, range(len(names)), xerr=[middle - low, high - middle], fmt="o", capsize=3)
        axis.axvline(0.5, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlim(0, 1)
        axis.set_title(f"recipe {recipe}")
    figure.supxlabel("P(Q-Transformer above the method on a task), 95%")
    figure.savefig(IMAGES / "metaworld_improvement.png", dpi=120)


def bars(found: dict[str, dict[str, np.ndarray]], names: list[str]) -> None:
    """Mean success of each method in each task, over seeds."""
    figure, axes = plt.subplots(len(found), 1, figsize=(11, 2.6 * len(found)), squeeze=False, layout="constrained", sharex=True)
    for axis, (recipe, by_method) in zip(axes[:, 0], found.items()):
        shown = {method: x for method, x in by_method.items() if "." not in method}
        for k, (method, x) in enumerate(sorted(shown.items(), key=lambda item: (item[0] != OURS, item[0]))):
            axis.bar(np.arange(len(names)) + k * 0.8 / len(shown) - 0.4, x.mean(0), 0.8 / len(shown), label=method, align="edge")
        axis.set_ylabel(f"recipe {recipe}: success")
        axis.set_ylim(0, 1.02)
    axes[0, 0].legend(ncols=4, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    axes[-1, 0].set_xticks(range(len(names)), names, rotation=25, ha="right")
    figure.savefig(IMAGES / "metaworld_tasks.png", dpi=120)


def main() -> None:
    if not runs():
        sys.exit(f"{RESULTS} holds no runs of the benchmark yet; `make metaworld-benchmark` first.")
    found = scores()
    IMAGES.mkdir(parents=True, exist_ok=True)
    (RESULTS / "table.md").write_text(table(found))
    bars(found, sorted(runs()[0]["success"]))
    improvement(found)
    print((RESULTS / "table.md").read_text())


if __name__ == "__main__":
    main()
