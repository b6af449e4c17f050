"""`python -m benchmarks.metaworld_grid`: the grid of the diagnosis as a table, from experiments/results/metaworld/grid.jsonl.

Success of each method, mean over seeds, and the two differences that the grid is for, paired by seed (pool, initialisation and order), with
95% t intervals. BC on demonstrations alone sees the same, whatever else a cell has.
"""

from __future__ import annotations

import json

import numpy as np
from scipy import stats

from benchmarks.claim import RESULTS
from experiments.metaworld_grid import CELLS, SEEN

OURS = "q_transformer.all"


def scores() -> dict[tuple[str, str], dict[int, float]]:
    """{(method, cell): {seed: success}}."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in (RESULTS / "grid.jsonl").read_text().splitlines():
        run = json.loads(line)
        method, cell, seed = run["run"].split(",")
        found.setdefault((method, cell), {})[int(seed)] = float(np.mean([s for episodes in run["success"].values() for s in episodes]))
    return found


def difference(ours: dict[int, float], other: dict[int, float]) -> str:
    seeds = sorted(set(ours) & set(other))
    values = np.asarray([ours[seed] - other[seed] for seed in seeds])
    if len(seeds) < 2:
        return ""
    half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(values)
    return f"{values.mean():+.0%} [{values.mean() - half:+.0%}, {values.mean() + half:+.0%}]"


def main() -> None:
    found = scores()
    print("| cell | seeds | " + " | ".join(SEEN) + " | Q-T(all) - Q-T(successes) | Q-T(all) - best BC |")
    print("|---" * (len(SEEN) + 4) + "|")
    for cell in CELLS:
        found.setdefault(("bc.demonstrations", cell), found.get(("bc.demonstrations", f"{cell.partition('_')[0]}_none"), {}))
        mean = {method: np.mean(list(found[method, cell].values())) for method in SEEN if found.get((method, cell))}
        if OURS not in mean:
            continue
        ours = found[OURS, cell]
        best = max((method for method in mean if method.startswith("bc.")), key=mean.get, default="")
        columns = [f"{mean[method]:.0%}" if method in mean else "" for method in SEEN]
        gains = [difference(ours, found.get((other, cell), {})) for other in ("q_transformer.successes", best)]
        print(f"| {cell} | {len(ours)} | " + " | ".join(columns + gains) + f"{f' ({best})' if best else ''} |")


if __name__ == "__main__":
    main()
