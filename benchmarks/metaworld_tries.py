"""`python -m benchmarks.metaworld_tries [FILE]`: the tries of the diagnosis as a table: success with its 95% Wilson interval over all
episodes of all seeds, and, where there is a Q, the share of dims whose greedy bin is the first or the last (in training batches).

FILE: of experiments/results/metaworld, such as tries_h100.jsonl; default: tries.jsonl.
"""

from __future__ import annotations

import json
import statistics
import sys

from benchmarks.claim import RESULTS
from qt_jax.evaluation.statistics import success_rate


def main(file: str) -> None:
    cells: dict[tuple[str, str], list[dict]] = {}
    for line in (RESULTS / file).read_text().splitlines():
        run = json.loads(line)
        name, cell, _ = run["run"].split(",")
        for row in (cell, "together"):
            cells.setdefault((name, row), []).append(run)
    print("| try | cell | seeds | success | greedy bin on an edge |\n|---|---|---|---|---|")
    for (name, cell), found in sorted(cells.items()):
        row = success_rate([episode for run in found for episodes in run["success"].values() for episode in episodes])
        edges = [run["metrics"]["greedy_at_edge"] for run in found if "greedy_at_edge" in run["metrics"]]
        edge = f"{statistics.mean(edges):.0%}" if edges else ""
        seeds = len({run["run"].rpartition(",")[2] for run in found})
        print(f"| {name} | {cell} | {seeds} | {row['success']:.0%} [{row['low']:.0%}, {row['high']:.0%}] | {edge} |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tries.jsonl")
