"""A rule from facts of a dataset to what to train on it: a short decision list, fitted on benchmark cells."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("rule.json")
"""What `make advise-rule` wrote."""

CHOICES = {
    "imitate_all": "imitate all episodes: bc with --config.data.episodes=all",
    "imitate_successes": "imitate the successes: bc with --config.data.episodes=successes",
    "q_transformer": "Q-Transformer on all episodes",
}
"""{choice: in words}."""
BALANCES = {
    "half": "half of each batch from demonstrations: --config.data.balance.demonstrations=0.5",
    "natural": "batches as the data come: --config.data.balance.demonstrations=None",
}
"""{how Q-Transformer's batches are balanced: in words}."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """That a feature (`facts.FEATURES`) is above, or not above, a threshold; of one not known it is neither.

    then: the choice where it holds.
    """

    feature: str
    above: bool
    threshold: float
    then: str

    def holds(self, features: Mapping[str, float | None]) -> bool:
        """Returns whether the condition holds."""
        value = features[self.feature]
        return value is not None and (value > self.threshold) == self.above


@dataclasses.dataclass(frozen=True)
class DecisionList:
    """Conditions in their order, the first of which that holds says what to choose, else `otherwise`."""

    conditions: tuple[Condition, ...]
    otherwise: str

    def choose(self, features: Mapping[str, float | None]) -> tuple[str, Condition | None]:
        """Returns the choice, and the condition that made it; None: none holds."""
        for condition in self.conditions:
            if condition.holds(features):
                return condition.then, condition
        return self.otherwise, None


@dataclasses.dataclass(frozen=True)
class Figures:
    """How a way to choose did on cells that it was not made from.

    right: in how many its choice was the best one; lost: points of success that it lost against the best
    choice of each cell, mean.
    """

    right: int
    lost: float


@dataclasses.dataclass(frozen=True)
class Rule:
    """A decision list, and how it did.

    Attributes:
        decides: the list, fitted on all cells.
        cells: on how many it was fitted and tested.
        groups: how many recipes they are; each was left out in turn.
        tested: the rule's.
        constants: {choice: that of always making it}.

    """

    decides: DecisionList
    cells: int
    groups: int
    tested: Figures
    constants: dict[str, Figures]

    @property
    def is_better(self) -> bool:
        """Whether it was right more often, and lost less, than each constant choice."""
        return all(
            self.tested.right > own.right and self.tested.lost < own.lost for own in self.constants.values()
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON types, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rule:
        """Reads what `to_json` gave."""
        return cls(
            decides=DecisionList(
                conditions=tuple(Condition(**condition) for condition in value["decides"]["conditions"]),
                otherwise=value["decides"]["otherwise"],
            ),
            cells=value["cells"],
            groups=value["groups"],
            tested=Figures(**value["tested"]),
            constants={name: Figures(**own) for name, own in value["constants"].items()},
        )


def load() -> tuple[Rule, Rule]:
    """Returns the rule for `CHOICES` and that for `BALANCES`, as `FILE` has them."""
    kept = json.loads(FILE.read_text())
    return Rule.from_json(kept["choice"]), Rule.from_json(kept["balance"])
