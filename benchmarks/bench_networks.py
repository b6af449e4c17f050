"""`make bench-networks`: what a train step of several networks costs, from states and from images.

Medians of steps that take turns, and their ratios to one network. Writes
experiments/results/bench_networks.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import runs, turns
from benchmarks.learner_step import shipped

RESULTS = Path("experiments/results/bench_networks.json")
SIZES, REPEATS = ("metaworld_mt10", "quickstart"), 15


def main() -> None:
    commit, found = runs.code_commit("benchmarks"), {}
    for size in SIZES:
        ways = {str(k): turns.step(*shipped(size), {"model.networks": k}) for k in (1, 2, 4)}
        seconds = turns.medians(ways, REPEATS)
        found[size] = {"seconds": seconds, "over one": {k: s / seconds["1"] for k, s in seconds.items()}}
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
