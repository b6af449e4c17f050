"""`make bench-state`: state-only MT10, Q-Transformer against behaviour cloning on the same data, one seed each.

Collects the dataset unless it is there, trains and evaluates each method through the doors that a user has, and writes
experiments/results/bench_state.json with success rates (95% Wilson intervals), wall times and the commit.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

EXPERIMENT = "experiments/metaworld_mt10.py"
DATA = Path("data/metaworld_mt10_state")
RESULTS = Path("experiments/results/bench_state.json")
METHODS = {
    "Q-Transformer": ("q_transformer", []),
    "BC on everything": ("bc", []),
    "BC on successes": ("bc", ["--config.data.episodes=successes"]),
}


def door(name: str, agent: str, *overrides: str) -> float:
    """Runs a door and returns its wall time in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "qt_jax", name, f"--config={EXPERIMENT}:{agent}", *overrides], check=True)
    return time.perf_counter() - start


def main(overrides: list[str]) -> None:
    if not DATA.exists():
        door("collect", "q_transformer")
    rows = {}
    for method, (agent, own) in METHODS.items():
        workdir = f"runs/bench_state/{method.lower().replace(' ', '_')}"
        settings = [*own, f"--config.workdir={workdir}", *overrides]
        train_s = door("train", agent, *settings)
        evaluate_s = door("evaluate", agent, *settings)
        rows[method] = json.loads((Path(workdir) / "evaluation.json").read_text()) | {"train_s": train_s, "evaluate_s": evaluate_s}
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        result = {"machine": f"{platform.machine()} CPU, shared", "commit": commit, "overrides": overrides, "methods": rows}
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    for method, row in rows.items():
        overall = row["overall"]
        print(
            f"{method:20}{overall['success']:6.1%}  [{overall['low']:.1%}, {overall['high']:.1%}]  trained in {row['train_s'] / 60:.1f} min"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
