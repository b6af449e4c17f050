"""`python -m benchmarks.metaworld_bins`: which bins the actions of the diagnosis' pools are in.

For each kind of episode it prints the share of the actions' dims in the first or the last bin, and the share
of a dim's bins that any of them is in. Means over seeds; nothing is trained.
"""

from __future__ import annotations

import numpy as np

from benchmarks import claim, packs
from experiments import metaworld_diagnosis
from experiments.metaworld_tries import CELLS
from qt_jax.data.mixtures import KINDS

SEEDS = (0, 1, 2)
DIVIDED = "q_transformer.even_fast_ended_skip_5_mild"
"""A try with a share of each batch for every kind, in the order of KINDS."""


def used(content: packs.Pack, job: packs.Job, member: packs.Member) -> list[tuple[float, float]]:
    """Computes, for each kind of episode, (share at the first or last bin, share of bins covered)."""
    pool, result = content.data[job.data[member.data]].pool, []
    for group in member.groups:
        table = pool.table[pool.rows([group])]
        tokens, last = table["tokens"][table["trainable"]], table["bins"][0] - 1
        covered = [len(np.unique(own)) / (end + 1) for own, end in zip(tokens.T, last)]
        result.append((float(((tokens == 0) | (tokens == last)).mean()), float(np.mean(covered))))
    return result


def main() -> None:
    names = [f"{DIVIDED},{cell},{seed}" for cell in CELLS for seed in SEEDS]
    configs = {name: metaworld_diagnosis.get_config(name) for name in names}
    content = packs.read(claim.packed("experiments/metaworld_diagnosis.py", "bins", configs))
    found = {member.name: used(content, job, member) for job in content.jobs for member in job.members}
    print("| cell | episodes | at the first or last bin | bins covered |\n|---|---|---|---|")
    for cell in CELLS:
        means = np.mean([found[f"{DIVIDED},{cell},{seed}"] for seed in SEEDS], axis=0)
        for kind, (edge, covered) in zip(KINDS, means):
            print(f"| {cell} | {kind} | {edge:.0%} | {covered:.0%} |")


if __name__ == "__main__":
    main()
