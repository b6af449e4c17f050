"""`make metaworld-rank`: behaviour cloning, Decision Transformer, and Q-Transformer ranking what they draw.

A proposer acts greedily, or draws K actions, of which Q-Transformer says which is done; K = 1 is
the proposer alone. All are the benchmark's methods and data, trained by the commands that a user has. A JSON
line each in experiments/results/metaworld/rank.jsonl, and a table of means over seeds. Latency is what a
decision of all environments takes, the proposer's draws included. RECIPE,SEED: only these.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import results, runs
from experiments import metaworld_benchmark
from qt_jax import text
from qt_jax.evaluation import evaluate
from qt_jax.evaluation import runs as checkpoints_of
from qt_jax.export import checkpoint_policy
from qt_jax.policy.requests import Decision, Request
from qt_jax.policy.sessions import Sessions
from qt_jax.specs import GREEDY, Decoding

EXPERIMENT = "experiments/metaworld_benchmark.py"
PROPOSERS = ("bc_all", "bc_successes", "decision_transformer")
RANKER = "q_transformer_dropout"
RECIPES, SEEDS = ("b", "e"), (0, 1, 2)
COUNTS = (1, 4, 16, 64)
OUTPUT = results.METAWORLD / "rank.jsonl"


class Ranked:
    """A proposer whose K draws a ranker orders; an actor of `rollouts.run`. Each draw is a session's own."""

    def __init__(self, proposer: Sessions, ranker: Sessions | None, count: int):
        self.proposer, self.ranker, self.count = proposer, ranker, count
        self.seconds: list[float] = []

    def act(self, requests: Sequence[Request]) -> list[Decision]:
        """Decides for each request."""
        start = time.perf_counter()
        drawn = self.proposer.act(
            [
                dataclasses.replace(request, session=(request.session, k), seed=request.seed * self.count + k)
                for request in requests
                for k in range(self.count)
            ]
        )
        proposals = [drawn[place : place + self.count] for place in range(0, len(drawn), self.count)]
        chosen = [own[self._best(request, own)] for request, own in zip(requests, proposals)]
        self.seconds.append(time.perf_counter() - start)
        return chosen

    def _best(self, request: Request, proposals: list[Decision]) -> int:
        if self.ranker is None:
            return 0
        actions = np.stack([proposal.actions for proposal in proposals])
        (found,) = self.ranker.act_each([dataclasses.replace(request, candidates=actions)])
        return int(found.order[0])

    def close(self, session: Hashable) -> None:
        """Ends an episode."""
        for k in range(self.count):
            self.proposer.close((session, k))
        if self.ranker is not None:
            self.ranker.close(session)


def sessions(run: str, capacity: int, decoding: Decoding, candidates: int = 0) -> Sessions:
    """Loads a run, which is trained if it is not there."""
    config = metaworld_benchmark.get_config(run)
    runs.train(EXPERIMENT, run, config)
    params, assets, _ = checkpoints_of.load(config)
    policy = checkpoint_policy.build(params, assets, capacity, decoding=decoding, candidates=candidates)
    return Sessions(policy, functools.partial(text.embed, encoder=policy.spec.text_encoder))


def measure(proposer: str, recipe: str, seed: int, count: int) -> dict:
    """Evaluates K draws of a proposer, ranked; 0: its greedy action."""
    config = metaworld_benchmark.get_config(f"{proposer},{recipe},{seed}")
    envs = config.evaluate.num_envs
    decoding = Decoding("sample") if count else GREEDY
    drawn = sessions(f"{proposer},{recipe},{seed}", envs * max(1, count), decoding)
    ranker = sessions(f"{RANKER},{recipe},{seed}", envs, GREEDY, count) if count > 1 else None
    actor = Ranked(drawn, ranker, max(1, count))
    found = evaluate.roll_out(config, actor, evaluate.own_jobs(config))
    success = collections.defaultdict(list)
    for rollout in found:
        success[rollout.job.task].append(float(rollout.success))
    return {
        "run": f"{proposer},{recipe},{seed}",
        "ranked": count,
        "success": {task: statistics.mean(of_task) for task, of_task in success.items()},
        "ms": 1000 * statistics.median(actor.seconds),
        "machine": runs.MACHINE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [f"{recipe},{seed}" for seed in SEEDS for recipe in RECIPES]
    parser.add_argument("cells", nargs="*", help=f"of {', '.join(every)}; others of the benchmark too")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    commit = runs.code_commit("experiments")
    known = {(row["run"], row["ranked"]) for row in results.rows(given.output)}
    for cell, proposer, count in itertools.product(given.cells or every, PROPOSERS, (0, *COUNTS)):
        recipe, seed = cell.split(",")
        if (f"{proposer},{cell}", count) not in known:
            results.add(given.output, measure(proposer, recipe, int(seed), count) | {"commit": commit})
    table(results.rows(given.output))


def table(rows: list[dict]) -> None:
    """Prints success by proposer and K, in % of the episodes of all seeds, and the latency beside it."""
    counts = (0, *COUNTS)
    print("| proposer | recipe | seeds | greedy |" + "".join(f" K = {count} |" for count in COUNTS))
    print("|---|---|---|---|" + "---|" * len(COUNTS))
    groups = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        proposer, recipe, _ = row["run"].split(",")
        groups[proposer, recipe][row["ranked"]].append(row)
    for (proposer, recipe), by_count in groups.items():
        cells = [
            f"{statistics.mean(statistics.mean(row['success'].values()) for row in by_count[count]):.0%} "
            f"({statistics.median(row['ms'] for row in by_count[count]):.0f} ms)"
            if by_count[count]
            else ""
            for count in counts
        ]
        seeds = max(map(len, by_count.values()))
        print(f"| {proposer} | {recipe} | {seeds} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
