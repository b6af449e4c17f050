"""`python -m benchmarks.metaworld_states`: the benchmark's policies in states that they were not trained on.

Recipe a. Of demonstrations that a run did not see (the pool has 100 a task, the recipe 10): how often the
greedy bin of a dim is the expert's, how many bins lie between the two, and how often it is the first or the
last where the expert's is not; each dim after the expert's own dims before it. Of the policy's own episodes:
its score (Q, where there is one) of the actions it took, in those that succeed and in those that fail. A line
a run in experiments/results/metaworld/states.jsonl; prints means over seeds, of each task and of all.
"""

from __future__ import annotations

import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import claim, fleet, packs, results
from benchmarks.stacked_runs import gather, joined
from experiments import metaworld_benchmark
from qt_jax import agents, text
from qt_jax.envs import suites

METHODS = ("q_transformer", "awac", "decision_transformer", "bc_demonstrations")
SEEDS = (0,)
OUTPUT = results.METAWORLD / "states.jsonl"
UNSEEN = " on demonstrations"


def configs(names: list[str], get_config: Any = metaworld_benchmark.get_config) -> dict[str, Any]:
    """Returns the configs of these runs, and beside each run one that reads all demonstrations like it."""
    found = {name: get_config(name) for name in names}
    for name in names:
        config = get_config(name)
        config.data.limits, config.data.episodes = ("demonstration=100",), "demonstrations"
        config.data.balance.demonstrations = None
        found[name + UNSEEN] = config
    return found


def unseen(
    content: packs.Pack, job: packs.Job, member: packs.Member, params: dict
) -> dict[str, dict[str, float]]:
    """Computes {task: {metric: mean over the dims of unseen demonstrations}}.

    "at_edge" is over the dims that the expert has elsewhere.
    """
    config, ensemble = job.config_of(member), fleet.ensemble_of(content, job)
    pool = content.data[job.data[member.data]].pool
    agent, last_bin = agents.get(config.agent.name), ensemble.interface.action.max_bins - 1
    beside = next(
        other for job in content.jobs for other in job.members if other.name == member.name + UNSEEN
    )
    seen = {(group.source, int(episode)) for group in member.groups for episode in group.episodes}
    rows = pool.rows(beside.groups, without=seen)
    arrays, _ = joined([pool])
    on_device = jax.device_put(arrays)

    @jax.jit
    def compared(rows: jax.Array) -> dict[str, jax.Array]:
        segment = gather(on_device, rows)
        scores = agent.scores(
            config,
            segment.bin_mask(ensemble.interface.action.max_bins)[:, None],
            ensemble.score(params, segment),
        )
        greedy, mask = jnp.argmax(scores, -1), segment.trainable[..., None] & segment.action_mask

        def at_edge(bins):
            return (bins == 0) | (bins == last_bin)

        within = ~at_edge(segment.tokens)
        found = {
            "same": (greedy == segment.tokens, mask),
            "bins_off": (jnp.abs(greedy - segment.tokens), mask),
            "at_edge": (at_edge(greedy), mask & within),
        }
        return {name: (jnp.where(of, x, 0).sum((1, 2)), of.sum((1, 2))) for name, (x, of) in found.items()}

    parts = [compared(part) for part in np.array_split(rows, -(-len(rows) // 256))]
    sums = {
        name: [np.concatenate(sums) for sums in zip(*(part[name] for part in parts))] for name in parts[0]
    }
    suite, instructions = suites.of(config), pool.embeddings[pool.instruction[rows]]
    result = {}
    for task in suite.suite_tasks(config.env.tasks):
        known = [text.embed(sentence) for sentence in suite.INSTRUCTIONS[task]]
        own = np.any([np.isclose(instructions, embedding).all(-1) for embedding in known], axis=0)
        result[task] = {name: float(x[own].sum() / dims[own].sum()) for name, (x, dims) in sums.items()}
    return result


def expected(
    content: packs.Pack, job: packs.Job, member: packs.Member, params: dict
) -> dict[str, dict[str, Any]]:
    """Computes by task the success, and the mean score of actions in episodes that succeed and that fail."""
    config = job.config_of(member)
    of_dims = agents.get(config.agent.name).ADDITIVE

    def scored(chosen):
        return chosen.sum(-1) if of_dims else chosen[:, -1]

    result = {}
    for task, done in fleet.episodes(content, job, member, params, fleet.Environments(config)).items():
        result[task] = {"success": statistics.mean(bool(rollout.success) for rollout in done)}
        for name, wanted in (("score_in_success", True), ("score_in_failure", False)):
            if own := [
                float(scored(rollout.chosen_scores).mean())
                for rollout in done
                if bool(rollout.success) == wanted
            ]:
                result[task][name] = statistics.mean(own)
    return result


def measure(unit: fleet.Unit) -> list[dict[str, Any]]:
    of_run = content, *_ = fleet.trained(unit)
    found, own = unseen(*of_run), expected(*of_run)
    return [
        {"run": of_run[2].name, "tasks": {task: found[task] | own[task] for task in found}} | content.facts
    ]


def table(rows: list[dict[str, Any]]) -> str:
    names = ("same", "bins_off", "at_edge", "success", "score_in_success", "score_in_failure")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in rows:
        for task, values in row["tasks"].items():
            for group in (task, "all tasks"):
                found.setdefault((group, row["run"].split(",")[0]), []).append(values)
    lines = ["| task | method | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for (task, method), seeds in sorted(found.items()):
        known = [[values[name] for values in seeds if name in values] for name in names]
        lines.append(
            f"| {task} | {method} | "
            + " | ".join(f"{statistics.mean(x):.2f}" if x else "" for x in known)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    every = configs([f"{method},a,{seed}" for seed in SEEDS for method in METHODS])
    pack = claim.packed("experiments/metaworld_benchmark.py", "states", every)
    fleet.run(pack, OUTPUT, do=measure, beside=[name for name in every if UNSEEN in name])
    print(table(results.rows(OUTPUT)))


if __name__ == "__main__":
    main()
