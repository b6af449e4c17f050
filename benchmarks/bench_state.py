"""`make bench-state`: state-only MT10, Q-Transformer against behaviour cloning on the same data, one seed each.

Collects the dataset unless it is there, trains and evaluates each method through the doors that a user has, and writes
experiments/results/bench_state.json with success rates (95% Wilson intervals), training times and the commit. Runs are kept by
the last commit that changed the code, so that a figure is never of other code than it says.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

EXPERIMENT = "experiments/metaworld_mt10.py"
DATA = Path("data/metaworld_mt10_state")
CODE = ("qt_jax", EXPERIMENT, "requirements.txt")
RESULTS = Path("experiments/results/bench_state.json")
METHODS = {
    "Q-Transformer": ("q_transformer", []),
    "BC on everything": ("bc", []),
    "BC on successes": ("bc", ["--config.data.episodes=successes"]),
}


def door(name: str, agent: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", "qt_jax", name, f"--config={EXPERIMENT}:{agent}", *overrides], check=True)


def code_commit() -> str:
    git = lambda *arguments: subprocess.run(["git", *arguments, "--", *CODE], capture_output=True, text=True, check=True).stdout.strip()
    if changed := git("status", "--porcelain"):
        sys.exit(f"bench_state: commit your changes first, so that the figures name the code they are of:\n{changed}")
    return git("log", "-1", "--format=%h")


def training_minutes(workdir: Path) -> float:
    """From the first to the last metrics of the run (a rerun of this script finds it finished and does not train again)."""
    times = [json.loads(line)["time"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return (times[-1] - times[0]) / 60


def main(overrides: list[str]) -> None:
    if not (DATA / "1.0.0").exists():
        door("collect", "q_transformer")
    rows, commit = {}, code_commit()
    for method, (agent, own) in METHODS.items():
        workdir = Path("runs/bench_state") / commit / method.lower().replace(" ", "_")
        settings = [*own, f"--config.workdir={workdir}", *overrides]
        door("train", agent, *settings)
        door("evaluate", agent, *settings)
        rows[method] = json.loads((workdir / "evaluation.json").read_text()) | {"training_minutes": training_minutes(workdir)}
    machine = f"{platform.machine()} CPU, 2 shared cores"
    RESULTS.write_text(json.dumps({"machine": machine, "commit": commit, "overrides": overrides, "methods": rows}, indent=1) + "\n")
    for method, row in rows.items():
        overall = row["overall"]
        interval = f"[{overall['low']:.1%}, {overall['high']:.1%}]"
        print(f"{method:20}{overall['success']:6.1%}  {interval}  trained in {row['training_minutes']:.1f} min")


if __name__ == "__main__":
    main(sys.argv[1:])
