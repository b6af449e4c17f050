"""`python -m benchmarks.metaworld_tries [FILE]`: the tries of the diagnosis as a table.

Success with its 95% Wilson interval over all episodes of all seeds. Where there is one, of the last training
batches: the share of dims whose greedy bin is the first or the last, the return that followed, Q of the bins
that were taken and Q of the others. "together" is of the seeds that all cells of a try have.

FILE is of experiments/results/metaworld, such as gates.jsonl; the default is tries.jsonl, with what each try
sets.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from benchmarks import results
from experiments.metaworld_tries import TRIES
from qt_jax.evaluation.statistics import success_rate

METRICS = ("greedy_at_edge", "mc_return", "q_taken", "q_other")
CURRENT = "tries.jsonl"


def by_cell(runs: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Sorts runs into {try: {cell: runs}}; "together" has the seeds that all cells of the try have."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for run in runs:
        name, cell, seed = run["run"].split(",")
        found.setdefault(name, {}).setdefault(cell, {})[seed] = run
    result = {}
    for name, cells in sorted(found.items()):
        common = set.intersection(*(set(seeds) for seeds in cells.values()))
        result[name] = {cell: list(seeds.values()) for cell, seeds in sorted(cells.items())}
        result[name]["together"] = [
            run for seeds in cells.values() for seed, run in seeds.items() if seed in common
        ]
    return result


def table(runs: list[dict[str, Any]]) -> str:
    lines = [
        "| try | cell | seeds | success | " + " | ".join(METRICS) + " |",
        "|---" * (4 + len(METRICS)) + "|",
    ]
    for name, cells in by_cell(runs).items():
        for cell, found in cells.items():
            if not found:
                continue
            outcomes = [
                outcome for run in found for episodes in run["success"].values() for outcome in episodes
            ]
            row = success_rate(outcomes)
            success = f"{row['success']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
            known = [
                [run["metrics"][metric] for run in found if metric in run["metrics"]] for metric in METRICS
            ]
            metrics = " | ".join(f"{statistics.mean(values):.2f}" if values else "" for values in known)
            seeds = len({run["run"].rpartition(",")[2] for run in found})
            lines.append(f"| {name} | {cell} | {seeds} | {success} | {metrics} |")
    return "\n".join(lines)


def settings() -> str:
    """Makes a table of what each try sets, beside experiments/pools.py and the agent's get_config."""
    lines = ["| try | sets |", "|---|---|"]
    for agent, tries in TRIES.items():
        words = {
            name: ", ".join(f"{key}={value}" for key, value in sorted(own.items()))
            for name, own in tries.items()
        }
        lines += [f"| {agent}.{name} | {own} |" for name, own in words.items()]
    return "\n".join(lines)


def main(file: str) -> None:
    print(table(results.decoded(results.existing(results.METAWORLD / file, "success"))))
    if file == CURRENT:
        print(f"\n{settings()}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else CURRENT)
