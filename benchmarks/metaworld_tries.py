"""`python -m benchmarks.metaworld_tries [FILE]`: the tries of the diagnosis as a table: success with its 95% Wilson interval over all
episodes of all seeds, and, where there is one, of the last training batches: the share of dims whose greedy bin is the first or the last,
the return that followed, Q of the bins that were taken and Q of the others.

FILE: of experiments/results/metaworld, such as tries_h100.jsonl; default: tries.jsonl.
"""

from __future__ import annotations

import statistics
import sys

from benchmarks.claim import RESULTS, rows
from qt_jax.evaluation.statistics import success_rate

METRICS = ("greedy_at_edge", "mc_return", "q_taken", "q_other")


def main(file: str) -> None:
    cells: dict[tuple[str, str], list[dict]] = {}
    for run in rows(RESULTS / file):
        name, cell, _ = run["run"].split(",")
        for row in (cell, "together"):
            cells.setdefault((name, row), []).append(run)
    print("| try | cell | seeds | success | " + " | ".join(METRICS) + " |\n" + "|---" * (4 + len(METRICS)) + "|")
    for (name, cell), found in sorted(cells.items()):
        row = success_rate([episode for run in found for episodes in run["success"].values() for episode in episodes])
        known = [[run["metrics"][name] for run in found if name in run["metrics"]] for name in METRICS]
        metrics = " | ".join(f"{statistics.mean(values):.2f}" if values else "" for values in known)
        seeds = len({run["run"].rpartition(",")[2] for run in found})
        print(f"| {name} | {cell} | {seeds} | {row['success']:.0%} [{row['low']:.0%}, {row['high']:.0%}] | {metrics} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tries.jsonl")
