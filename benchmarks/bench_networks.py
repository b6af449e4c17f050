"""`make bench-networks`: what a train step of several networks costs, from states and from images.

The steps take turns in one process, which shares the machine's noise. Medians, and ratios to one network.
Writes experiments/results/bench_networks.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench_backups import measure

RESULTS = Path("experiments/results/bench_networks.json")
SIZES = {"metaworld_mt10": 15, "quickstart": 15}
"""{size: timed steps of each number of networks}."""
VARIANTS = {str(count): {"model.networks": count} for count in (1, 2, 4)}


def main() -> None:
    """Measures every size, prints a line each and writes the results."""
    found = {}
    for size, repeats in SIZES.items():
        seconds = measure(size, VARIANTS, repeats)
        found[size] = {k: {"step_s": s, "of_one": s / seconds["1"]} for k, s in seconds.items()}
        print(
            size, ", ".join(f"{k}: {v['step_s']:.3g} s ({v['of_one']:.2f}x)" for k, v in found[size].items())
        )
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
