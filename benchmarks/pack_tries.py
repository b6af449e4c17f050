"""`python -m benchmarks.pack_tries [TRY ...]`: these tries of the diagnosis (none named: all), for benchmarks/fleet.py."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import fleet
from experiments import metaworld_diagnosis
from experiments.metaworld_tries import CELLS, TRIES

PACK = Path(".fleet/tries.pack")
SEEDS = (0, 1)


def main(wanted: list[str]) -> None:
    wanted = wanted or [f"{agent}.{name}" for agent, tries in TRIES.items() for name in tries]
    runs = [f"{tried},{cell},{seed}" for tried in wanted for cell in CELLS for seed in SEEDS]
    fleet.pack({run: metaworld_diagnosis.get_config(run) for run in runs}, PACK)


if __name__ == "__main__":
    main(sys.argv[1:])
