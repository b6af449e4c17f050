"""Which datasets are trained on together, and the share of each: {mixture: {dataset: share}}.

A share is a number, divided by the sum of all, or a `Share` with its own balance of kinds. The name of a
dataset is a mixture of that dataset alone.
"""

from __future__ import annotations

import dataclasses

KINDS = ("demonstrations", "successes", "failures")
"""Kinds of episodes: successful demonstrations, other successes, and failures of any collector."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A dataset's weight in a mixture, with its own balance of kinds.

    balance: {kind: share of the dataset's segments}, as in `config.data.balance`; None: the config's.
    """

    weight: float
    balance: dict[str, float] | None = None


MIXTURES: dict[str, dict[str, float | Share]] = {
    # Defaults of this project: half of the segments are of the robot with the most varied tasks.
    "oxe": {"fractal_arm": 0.5, "bridge_v2": 0.3, "language_table": 0.2},
    "rt1_bridge": {"fractal_arm": 0.6, "bridge_v2": 0.4},
}
