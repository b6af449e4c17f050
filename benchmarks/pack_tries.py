"""`python -m benchmarks.pack_tries`: every try of the diagnosis, for benchmarks/fleet.py."""

from __future__ import annotations

from pathlib import Path

from benchmarks import fleet
from experiments import metaworld_diagnosis
from experiments.metaworld_tries import CELLS, TRIES

PACK = Path(".fleet/tries.pack")
SEEDS = (0, 1, 2)


def main() -> None:
    jobs = {}
    for name in range(max(map(len, TRIES.values()))):
        for agent, tries in TRIES.items():
            tried = f"{agent}.{list(tries)[name]}"
            runs = [f"{tried},{cell},{seed}" for cell in CELLS for seed in SEEDS]
            jobs[tried] = {run: metaworld_diagnosis.get_config(run) for run in runs}
    fleet.pack(jobs, PACK)


if __name__ == "__main__":
    main()
