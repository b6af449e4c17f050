"""The conservative weight against the seed, on the quickstart: six runs.

Needs the data of `make quickstart`. `python -m launch local --sweep=experiments/sweeps/alpha.py --evaluate`
runs it, `python -m launch results --sweep=experiments/sweeps/alpha.py` makes its table.

Hardware: 2 CPU cores. Time: a few minutes a run. Result: none is kept.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = "experiments/quickstart.py"


def overrides() -> Iterator[dict[str, Any]]:
    for alpha in (0.3, 1.0, 10.0):
        for seed in (0, 1):
            yield {"agent.alpha": alpha, "seed": seed}
