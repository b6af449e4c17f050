"""`python -m benchmarks.metaworld_grid`: the grid of the diagnosis as a table, from
experiments/results/metaworld/grid.jsonl.

Success of each method, mean over seeds, and the two differences that the grid is for, paired by seed (pool,
initialisation and order), with 95% t intervals. BC on demonstrations alone sees the same, whatever else a
cell has.
"""

from __future__ import annotations

import numpy as np

from benchmarks.paired import difference, scores
from experiments.metaworld_grid import CELLS, SEEN

OURS = "q_transformer.all"


def main() -> None:
    found = scores("metaworld/grid.jsonl")
    print("| cell | seeds | " + " | ".join(SEEN) + " | Q-T(all) - Q-T(successes) | Q-T(all) - best BC |")
    print("|---" * (len(SEEN) + 4) + "|")
    for cell in CELLS:
        found.setdefault(
            ("bc.demonstrations", cell),
            found.get(("bc.demonstrations", f"{cell.partition('_')[0]}_none"), {}),
        )
        mean = {
            method: np.mean(list(found[method, cell].values()))
            for method in SEEN
            if found.get((method, cell))
        }
        if OURS not in mean:
            continue
        ours = found[OURS, cell]
        best = max((method for method in mean if method.startswith("bc.")), key=mean.get, default="")
        columns = [f"{mean[method]:.0%}" if method in mean else "" for method in SEEN]
        gains = [
            difference(ours, found.get((other, cell), {})) for other in ("q_transformer.successes", best)
        ]
        print(
            f"| {cell} | {len(ours)} | " + " | ".join(columns + gains) + f"{f' ({best})' if best else ''} |"
        )


if __name__ == "__main__":
    main()
