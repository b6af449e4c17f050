"""`make bench-state`: Q-Transformer against behaviour cloning on state-only MT10, one seed each.

Collects the dataset unless it is there, trains and evaluates each method with the commands that a user has,
and writes experiments/results/bench_state.json with success rates (95% Wilson intervals), training times and
the commit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import runs

EXPERIMENT = "experiments/metaworld_mt10.py"
DATA = Path("data/metaworld_mt10_state")
RESULTS = Path("experiments/results/bench_state.json")
METHODS = {
    "Q-Transformer": ("q_transformer", []),
    "BC on everything": ("bc", []),
    "BC on successes": ("bc", ["--config.data.episodes=successes"]),
}


def main(overrides: list[str]) -> None:
    commit = runs.code_commit(EXPERIMENT)
    if not (DATA / "1.0.0").exists():
        runs.command("collect", EXPERIMENT)
    rows = {}
    for method, (agent, own) in METHODS.items():
        workdir = Path("runs/bench_state") / commit / method.lower().replace(" ", "_")
        rows[method] = runs.train_and_evaluate(f"{EXPERIMENT}:{agent}", workdir, *own, *overrides)
    runs.write(RESULTS, commit=commit, overrides=overrides, methods=rows)
    for method, row in rows.items():
        overall = row["overall"]
        interval = f"[{overall['low']:.1%}, {overall['high']:.1%}]"
        print(
            f"{method:20}{overall['success']:6.1%}  {interval}  trained in {row['training_minutes']:.1f} min"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
