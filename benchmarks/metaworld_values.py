"""`python -m benchmarks.metaworld_values`: whether Q-Transformer's values separate failures from successes.

It looks at the autonomous episodes that a run was trained on (the diagnosis' systematic failures), and at how
far before a success the values see it. A line a try and seed in experiments/results/metaworld/values.jsonl;
prints each try's means over seeds.
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
"""Where ranges of decisions before a success begin."""
DEMONSTRATIONS = 0
"""Place of their group where a batch is balanced; the episodes of the other groups are autonomous."""


def separation(content: packs.Pack, job: packs.Job, member: packs.Member, params: dict) -> dict[str, float]:
    """Computes the mean Q of the action taken at each segment's first step, and its AUC for success.

    The means are of episodes that succeeded, in all and by the decisions that are left, and of those that
    failed. An AUC of .5 says that the values do not separate them.
    """
    config, ensemble = job.config_of(member), fleet.ensemble_of(content, job)
    pool = content.data[job.data[member.data]].pool
    arrays, _ = joined([pool])
    autonomous = [group for place, group in enumerate(member.groups) if place != DEMONSTRATIONS]
    rows = pool.rows(autonomous)
    on_device = jax.device_put(arrays)
    values = jax.jit(
        lambda rows: q_transformer.action_values(config, ensemble, params, gather(on_device, rows))[:, 0]
    )
    q = np.concatenate([values(part) for part in np.array_split(rows, -(-len(rows) // 512))])
    success = arrays["success"][rows]
    auc = mannwhitneyu(q[success], q[~success]).statistic / (success.sum() * (~success).sum())
    left = np.full(len(rows), np.inf)
    # Its one reward is the last.
    left[success] = np.round(np.log(arrays["mc_return"][rows[success], 0]) / np.log(config.discount))
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
    names = (name for row in rows for name, value in row.items() if isinstance(value, float))
    metrics = list(dict.fromkeys(names))
    print("| try | " + " | ".join(metrics) + " |\n" + "|---" * (len(metrics) + 1) + "|")
    for name in TRIES:
        own = [row for row in rows if row["run"].startswith(f"q_transformer.{name},")]
        # The rows of the first four tries have three metrics.
        known = [[row[metric] for row in own if metric in row] for metric in metrics]
        print(f"| {name} | " + " | ".join(f"{statistics.mean(x):.3f}" if x else "" for x in known) + " |")


if __name__ == "__main__":
    main()
