"""`make metaworld-improve`: what rounds of experience are worth to each method, from demonstrations alone.

It uses the commands that a user has; what was stopped goes on. A JSON line a run in
experiments/results/metaworld/improve.jsonl, and a table: success by round, the last round less the start, and
Q-Transformer less imitation of the successes after the last round, both with 95% t intervals over seeds.
`python -m benchmarks.metaworld_improve METHOD,START,SEED ...` makes these runs alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks import paired, results, runs
from experiments import metaworld_improve
from experiments.metaworld_improve import METHODS, STARTS

EXPERIMENT = "experiments/metaworld_improve.py"
SEEDS = range(5)
OUTPUT = results.METAWORLD / "improve.jsonl"
OURS, THEIRS = "q_transformer_dropout", "bc_successes"


def measure(name: str, commit: str) -> dict:
    config, began = metaworld_improve.get_config(name), time.time()
    runs.collect(EXPERIMENT, name, config)
    runs.command("improve", f"{EXPERIMENT}:{name}")
    rows = results.rows(Path(config.workdir, "improve", "improve.jsonl"))
    evaluated = [row["evaluation"]["tasks"] for row in rows]
    return {
        "run": name,
        "success": [{task: runs.episodes(row) for task, row in tasks.items()} for tasks in evaluated],
        "collected": [row["collected"]["overall"] for row in rows[1:]],
        "value": [row["value"] for row in rows[1:]],
        "minutes": (time.time() - began) / 60,
        "commit": commit,
        "machine": runs.MACHINE,
    }


def by_round(row: dict) -> list[float]:
    """Returns the success of a run after each round, the start first: the mean of its tasks."""
    return [statistics.mean(map(statistics.mean, tasks.values())) for tasks in row["success"]]


def table(rows: list[dict]) -> str:
    """Returns the table of all runs, in Markdown."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in rows:
        method, start, seed = row["run"].split(",")
        found.setdefault((start, method), {})[int(seed)] = by_round(row)
    count = max(len(row["success"]) for row in rows)
    rounds = " | ".join(f"round {number}" for number in range(count))
    lines = [f"| start | method | seeds | {rounds} | last less start |", "|---" * (count + 4) + "|"]
    for (start, method), seeds in found.items():
        means = " | ".join(f"{statistics.mean(each):.0%}" for each in zip(*seeds.values()))
        gain = paired.difference(*({s: own[place] for s, own in seeds.items()} for place in (-1, 0)))
        lines.append(f"| {start} | {method} | {len(seeds)} | {means} | {gain} |")
    for start in STARTS:
        ours, theirs = (
            {seed: own[-1] for seed, own in found.get((start, method), {}).items()}
            for method in (OURS, THEIRS)
        )
        if gap := paired.difference(ours, theirs):
            lines.append(f"\n{start}, after the last round: {OURS} less {THEIRS} {gap}")
    return "\n".join(lines)


def main() -> None:
    every = [f"{method},{start},{seed}" for start in STARTS for seed in SEEDS for method in METHODS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="METHOD,START,SEED")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in every]:
        parser.error(f"{unknown[0]!r} is none of {' '.join(every)}")
    commit, known = runs.code_commit("experiments"), {row["run"] for row in results.rows(OUTPUT)}
    for name in given.names or every:
        if name not in known:
            results.add(OUTPUT, measure(name, commit))
    print(table(results.rows(OUTPUT)))


if __name__ == "__main__":
    main()
