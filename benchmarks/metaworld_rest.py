"""`make metaworld-rest`: how often a policy hardly moves, where people who rest taught it.

On recipe i with seed 0, each method trained and rolled out by the commands that a user has, greedily and by a
beam. A decision rests if no component of the hand's motion is above a tenth of its bound. A JSON line each in
experiments/results/metaworld/rest.jsonl, and a table: the share of resting decisions in the failures and in
the successes.
"""

from __future__ import annotations

import statistics

import numpy as np

from benchmarks import results, runs
from experiments import metaworld_benchmark
from qt_jax.evaluation import evaluate, rollouts

EXPERIMENT = "experiments/metaworld_benchmark.py"
METHODS = ("q_transformer_dropout", "bc_demonstrations", "bc_successes", "decision_transformer", "awac")
DECODES = ("greedy", "beam:4")
HAND, AT_REST = slice(0, 3), 0.1
OUTPUT = results.METAWORLD / "rest.jsonl"


def measure(method: str, decode: str, commit: str) -> dict:
    run = f"{method},i,0"
    config = metaworld_benchmark.get_config(run)
    runs.train(EXPERIMENT, run, config)
    config.evaluate.decode = decode
    found = evaluate.roll_out(config, evaluate.of_run(config).actor, evaluate.own_jobs(config))
    return {"run": run, "decode": decode, "commit": commit, "machine": runs.MACHINE} | {
        name: rest([rollout for rollout in found if rollout.success == success])
        for name, success in (("failures", False), ("successes", True))
    }


def rest(found: list[rollouts.Rollout]) -> dict[str, float]:
    """Returns the number of episodes and the mean share of their decisions that rest."""
    shares = [float((np.abs(rollout.actions[:, HAND]) < AT_REST).all(axis=1).mean()) for rollout in found]
    return {"episodes": len(shares), "rest": statistics.mean(shares) if shares else 0.0}


def main() -> None:
    commit = runs.code_commit("experiments")
    known = {(row["run"], row["decode"]) for row in results.rows(OUTPUT)}
    for method in METHODS:
        for decode in DECODES:
            if (f"{method},i,0", decode) not in known:
                results.add(OUTPUT, measure(method, decode, commit))
    print("| method | decides | failures of 100 | decisions at rest in them | in the successes |")
    print("|---|---|---|---|---|")
    for row in results.rows(OUTPUT):
        failures, successes = row["failures"], row["successes"]
        name = f"{row['run'].split(',')[0]} | {row['decode']}"
        print(f"| {name} | {failures['episodes']} | {failures['rest']:.0%} | {successes['rest']:.0%} |")


if __name__ == "__main__":
    main()
