"""`python -m benchmarks.metaworld_values`: whether Q-Transformer's values tell what failed from what
succeeded, on the autonomous episodes that it was trained on (the diagnosis' systematic failures), and how far
before a success they know of it. A line a try and seed in experiments/results/metaworld/values.jsonl; prints
each try's means over seeds.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import jax
import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks import claim, fleet, packs, results
from benchmarks.stacked_runs import gather, joined
from experiments import metaworld_diagnosis
from qt_jax.agents import q_transformer

TRIES = ("half", "half_fast", "half_fast_ended", "half_fast_ended_skip_5", "half_fast_ended_skip_5_mild")
SEEDS = (0, 1, 2)
OUTPUT = results.METAWORLD / "values.jsonl"
LEFT = (0, 5, 10, 20, 40)
"""Decisions to a success, at which ranges of them begin."""
DEMONSTRATIONS = 0
"""Place of their group where a batch is balanced; the others' episodes are autonomous."""


def separation(content: packs.Pack, job: packs.Job, member: packs.Member, params: dict) -> dict[str, float]:
    """Mean Q of the action taken at each segment's first step, of episodes that succeeded, in all and so many
    decisions before, and that failed, and the AUC of Q for success (.5: the values do not tell them apart).
    """
    config, network, pool = (
        job.config_of(member),
        fleet.network_of(content, job),
        content.data[job.data[member.data]].pool,
    )
    arrays, _ = joined([pool])
    autonomous = [group for place, group in enumerate(member.groups) if place != DEMONSTRATIONS]
    episodes = [
        (group.source, int(e), cuts) for group in autonomous for e, cuts in zip(group.episodes, group.cuts)
    ]
    rows = np.concatenate(
        [pool.first[source, episode] + np.arange(cuts) for source, episode, cuts in episodes]
    )
    on_device = jax.device_put(arrays)
    values = jax.jit(
        lambda rows: q_transformer.first_step_values(config, network, params, gather(on_device, rows))
    )
    q = np.concatenate([values(part) for part in np.array_split(rows, -(-len(rows) // 512))])
    success = arrays["success"][rows]
    auc = mannwhitneyu(q[success], q[~success]).statistic / (success.sum() * (~success).sum())
    left = np.full(len(rows), np.inf)
    left[success] = np.round(
        np.log(arrays["mc_return"][rows[success], 0]) / np.log(config.discount)
    )  # its one reward is the last
    before = {f"q_{low}_left": q[(left >= low) & (left < high)] for low, high in itertools.pairwise(LEFT)}
    found = {"q_success": q[success], "q_failure": q[~success]} | before
    return {name: float(values.mean()) for name, values in found.items()} | {"auc": float(auc)}


def measure(unit: fleet.Unit) -> list[dict[str, Any]]:
    content, job, member, params = fleet.trained(unit)
    return [{"run": member.name} | separation(content, job, member, params) | content.facts]


def main() -> None:
    names = [f"q_transformer.{name},few_systematic,{seed}" for seed in SEEDS for name in TRIES]
    configs = {name: metaworld_diagnosis.get_config(name) for name in names}
    fleet.run(claim.packed("experiments/metaworld_diagnosis.py", "values", configs), OUTPUT, do=measure)
    rows = results.rows(OUTPUT)
    metrics = list(
        dict.fromkeys(name for row in rows for name, value in row.items() if isinstance(value, float))
    )
    print("| try | " + " | ".join(metrics) + " |\n" + "|---" * (len(metrics) + 1) + "|")
    for name in TRIES:
        own = [row for row in rows if row["run"].startswith(f"q_transformer.{name},")]
        known = [
            [row[metric] for row in own if metric in row] for metric in metrics
        ]  # the first four tries' rows have three
        print(f"| {name} | " + " | ".join(f"{statistics.mean(x):.3f}" if x else "" for x in known) + " |")


if __name__ == "__main__":
    main()
