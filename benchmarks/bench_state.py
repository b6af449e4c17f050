"""`make bench-state`: state-only MT10, Q-Transformer against behaviour cloning on the same data, one seed each.

Collects the dataset unless it is there, trains and evaluates each method through the doors that a user has, and writes
experiments/results/bench_state.json with success rates (95% Wilson intervals), training times and the commit.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

EXPERIMENT = "experiments/metaworld_mt10.py"
DATA = Path("data/metaworld_mt10_state")
RESULTS = Path("experiments/results/bench_state.json")
METHODS = {
    "Q-Transformer": ("q_transformer", []),
    "BC on everything": ("bc", []),
    "BC on successes": ("bc", ["--config.data.episodes=successes"]),
}


def door(name: str, agent: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "qt_jax", name, f"--config={EXPERIMENT}:{agent}", *overrides], check=True)


def training_minutes(workdir: Path) -> float:
    """From the first to the last metrics of the run (a rerun of this script finds it finished and does not train again)."""
    times = [json.loads(line)["time"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return (times[-1] - times[0]) / 60


def main(overrides: list[str]) -> None:
    if not (DATA / "1.0.0").exists():
        door("collect", "q_transformer")
    rows = {}
    for method, (agent, own) in METHODS.items():
        workdir = Path("runs/bench_state") / method.lower().replace(" ", "_")
        settings = [*own, f"--config.workdir={workdir}", *overrides]
        door("train", agent, *settings)
        door("evaluate", agent, *settings)
        rows[method] = json.loads((workdir / "evaluation.json").read_text()) | {"training_minutes": training_minutes(workdir)}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{platform.machine()} CPU, 2 shared cores"
    RESULTS.write_text(json.dumps({"machine": machine, "commit": commit, "overrides": overrides, "methods": rows}, indent=1) + "\n")
    for method, row in rows.items():
        overall = row["overall"]
        interval = f"[{overall['low']:.1%}, {overall['high']:.1%}]"
        print(f"{method:20}{overall['success']:6.1%}  {interval}  trained in {row['training_minutes']:.1f} min")


if __name__ == "__main__":
    main(sys.argv[1:])
