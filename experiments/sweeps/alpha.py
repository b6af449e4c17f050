"""The conservative weight against the seed, on quickstart: six runs of a few minutes each on 2 CPU cores.

`python -m launch local --sweep=experiments/sweeps/alpha.py --evaluate`, after `make quickstart` (whose data
it takes); then `python -m launch results --sweep=experiments/sweeps/alpha.py`.
"""

from collections.abc import Iterator
from typing import Any

CONFIG = "experiments/quickstart.py"


def overrides() -> Iterator[dict[str, Any]]:
    for alpha in (0.3, 1.0, 10.0):
        for seed in (0, 1):
            yield {"agent.alpha": alpha, "seed": seed}
