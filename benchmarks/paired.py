"""`python -m benchmarks.paired FILE ONE OTHER`: success of one try or method less that of another.

In each cell or recipe, and in all. Paired by seed, which the two share (pool, initialisation, order and
evaluation episodes), with 95% t intervals over seeds. FILE is of experiments/results, such as
metaworld/tries.jsonl. "NAME by beam:4" is a run as it decided in another way.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats

from benchmarks import results

Successes = dict[int, float]
"""{seed: success}"""


def scores(file: str) -> dict[tuple[str, str], Successes]:
    """Reads a file of results as {(method, cell): {seed: success}}."""
    found: dict[tuple[str, str], Successes] = {}
    for run in results.decoded(results.existing(results.ALL / file, "success")):
        method, cell, seed = run["run"].split(",")
        found.setdefault((method, cell), {})[int(seed)] = float(
            np.mean([s for episodes in run["success"].values() for s in episodes])
        )
    return found


def interval(one: Successes, other: Successes) -> tuple[float, float]:
    """Computes the mean difference over the seeds that both have, and half the width of its 95% t interval.

    The width is infinite for one seed.
    """
    seeds = sorted(set(one) & set(other))
    values = np.asarray([one[seed] - other[seed] for seed in seeds])
    half = stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(values) if len(seeds) > 1 else np.inf
    return float(values.mean()), float(half)


def difference(one: Successes, other: Successes) -> str:
    """Formats a difference with its interval; "" if there are no two seeds."""
    if len(set(one) & set(other)) < 2:
        return ""
    mean, half = interval(one, other)
    return f"{mean:+.0%} [{mean - half:+.0%}, {mean + half:+.0%}]"


def main(file: str, one: str, other: str) -> None:
    found = scores(file)
    cells = sorted(
        {cell for method, cell in found if method == one}
        & {cell for method, cell in found if method == other}
    )
    if not cells:
        known = ", ".join(sorted({method for method, _ in found}))
        sys.exit(f"{file} has no cell of both {one!r} and {other!r}; it has {known}.")
    print(f"| cell | seeds | {one} | {other} | difference |\n|---|---|---|---|---|")
    every: list[tuple[Successes, Successes]] = [(found[one, cell], found[other, cell]) for cell in cells]
    common = set.intersection(*(set(successes) for pair in every for successes in pair))

    def mean(place):
        return {seed: float(np.mean([pair[place][seed] for pair in every])) for seed in common}

    for cell, (ours, theirs) in [*zip(cells, every), ("together", (mean(0), mean(1)))]:
        both = sorted(set(ours) & set(theirs))
        values = [
            f"{np.mean([successes[seed] for seed in both]):.0%}" if both else ""
            for successes in (ours, theirs)
        ]
        print(f"| {cell} | {len(both)} | {' | '.join(values)} | {difference(ours, theirs)} |")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"{len(sys.argv) - 1} arguments; expected three:\n{__doc__}")
    main(*sys.argv[1:])
