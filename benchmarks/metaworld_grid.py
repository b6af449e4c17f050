"""`python -m benchmarks.metaworld_grid`: the grid of the diagnosis as a table.

From experiments/results/metaworld/grid.jsonl. Prints the success of each method, mean over seeds, and the two
differences that the grid is for, paired by seed (pool, initialisation and order), with 95% t intervals. BC on
demonstrations alone sees the same, whatever else a cell has.
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
        of_cell = {method: found.get((method, cell), {}) for method in SEEN}
        if not of_cell["bc.demonstrations"]:
            alone = f"{cell.partition('_')[0]}_none"
            of_cell["bc.demonstrations"] = found.get(("bc.demonstrations", alone), {})
        mean = {method: np.mean(list(seeds.values())) for method, seeds in of_cell.items() if seeds}
        if OURS not in mean:
            continue
        ours = of_cell[OURS]
        best = max((method for method in mean if method.startswith("bc.")), key=mean.get, default="")
        columns = [f"{mean[method]:.0%}" if method in mean else "" for method in SEEN]
        gains = [difference(ours, of_cell.get(other, {})) for other in ("q_transformer.successes", best)]
        named = f" ({best})" if best else ""
        print(f"| {cell} | {len(ours)} | {' | '.join(columns + gains)}{named} |")


if __name__ == "__main__":
    main()
