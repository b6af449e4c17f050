"""Which datasets are trained on together, and how often each: name -> {dataset: its share of the segments}.

A share is a number (shares are divided by their sum), or a `Share` with its own balance of kinds. A dataset's
name is itself a mixture.
"""

from __future__ import annotations

import dataclasses

KINDS = ("demonstrations", "successes", "failures")
"""Successful demonstrations; other successes; failures, whoever made them."""


@dataclasses.dataclass(frozen=True)
class Share:
    """balance: {kind: share of this dataset's segments}, see `config.data.balance`; None: the config's."""

    weight: float
    balance: dict[str, float] | None = None


MIXTURES: dict[str, dict[str, float | Share]] = {
    # Defaults of this project: the robot with the most varied tasks half of the time.
    "oxe": {"fractal_arm": 0.5, "bridge_v2": 0.3, "language_table": 0.2},
    "rt1_bridge": {"fractal_arm": 0.6, "bridge_v2": 0.4},
}
