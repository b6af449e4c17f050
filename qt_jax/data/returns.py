"""Rewards and returns of whole datasets, computed from their indices, and checks of the value range."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from qt_jax.data import index as indices
from qt_jax.data.index import Index
from qt_jax.data.mixture import Mixture, Source
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Returns:
    """Rewards and returns of all episodes of an index, one after the other.

    starts: int [episodes], the first step of each episode
    rewards: float32 [steps], the step penalty subtracted
    discounted: float64 [steps], the discounted return of the rest of the episode, as far as it was recorded
    """

    starts: np.ndarray
    rewards: np.ndarray
    discounted: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """The sum of each episode's rewards, float64 [episodes]."""
        return np.add.reduceat(self.rewards, self.starts, dtype=np.float64)

    @property
    def least(self) -> np.ndarray:
        """The least discounted return of each episode, float64 [episodes]."""
        return np.minimum.reduceat(self.discounted, self.starts)

    @property
    def greatest(self) -> np.ndarray:
        """The greatest discounted return of each episode, float64 [episodes]."""
        return np.maximum.reduceat(self.discounted, self.starts)

    def outside(self, value_range: tuple[float, float]) -> np.ndarray:
        """Returns bool [episodes]: which have a return outside the range, by more than rounding."""
        low, high = value_range
        margin = 1e-5 * (high - low)
        return (self.least < low - margin) | (self.greatest > high + margin)


def of_index(
    index: Index, step_penalty: float, discount: float, dt_ref: float, failed: bool = False
) -> Returns:
    """Computes the returns of all episodes; `failed`: as hindsight relabels them, without a success."""
    columns = index.columns
    lengths = columns["length"].astype(np.int64)
    ends = np.cumsum(lengths)
    rewards = np.full(ends[-1], 0.0 - step_penalty, np.float32)  # `0.0 -` avoids -0
    if not failed:
        rewards[ends - 1] = columns["final_reward"]
        rewards[np.repeat(columns["dense"], lengths)] = index.rewards

    gamma = discount ** (columns["dt"].astype(np.float64) / dt_ref)
    discounted = rewards.astype(np.float64)
    for back in range(2, int(lengths.max()) + 1):  # the last step but one of all, then the one before
        has = np.flatnonzero(lengths >= back)
        place = ends[has] - back
        discounted[place] += gamma[has] * discounted[place + 1]
    return Returns(ends - lengths, rewards, discounted)


def check(mixture: Mixture, config: Any) -> None:
    """Checks that `config.value_range` holds the returns of all training and validation episodes.

    Raises:
        UserError: that names each dataset with returns outside, and the range of its returns.

    """
    low, high = config.value_range
    problems, spans = [], [(low, high)]
    relabelled = [" as hindsight relabels it (config.data.relabel_rate)"] if config.data.relabel_rate else []
    settings = config.data.step_penalty, config.discount, config.dt_ref
    for source, kind in itertools.product(mixture.sources, ["", *relabelled]):
        used = np.union1d(source.train, source.validation)
        found = of_index(source.index, *settings, failed=bool(kind))
        least, greatest = found.least[used].min(), found.greatest[used].max()
        spans.append((least, greatest))
        outside = used[found.outside(config.value_range)[used]]
        if outside.size:
            problems.append(
                f"{source.name}{kind} from {least:.6g} to {greatest:.6g}, {len(outside)} of {len(used)} "
                f"episodes outside, the first {indices.where(source.directory, source.index, outside[0])}"
            )

    if problems:
        least, greatest = _rounded_outwards(*np.transpose(spans))
        raise UserError(
            f"Returns lie outside config.value_range=({low:g}, {high:g}): {'; '.join(problems)}. Set it to "
            f"the least and greatest attainable return, at least ({least:g}, {greatest:g})."
        )


TARGET_QUANTILE = 0.9
"""Quantile of the successful episodes' returns: high, but not the greatest, which may be luck (default)."""


def target(source: Source, config: Any) -> float:
    """Returns the return that a policy is conditioned on when it acts.

    It is `config.agent.target_return`, or else a high one of the successful training episodes.

    Raises:
        UserError: if the config's lies outside the returns of the training episodes.

    """
    every = of_index(source.index, config.data.step_penalty, config.discount, config.dt_ref)
    found, asked = every.whole[source.train], config.agent.target_return
    if asked is None:
        success = source.index.columns["success"][source.train]
        good = found[success] if success.any() else found
        return float(np.quantile(good, TARGET_QUANTILE, method="higher"))

    margin = 1e-5 * max(1.0, np.abs(found).max())  # float32 sums
    if not found.min() - margin <= asked <= found.max() + margin:
        raise UserError(
            f"config.agent.target_return is {asked:g}; the episodes of {source.name} "
            f"({source.directory.path}) have returns from {found.min():.6g} to {found.max():.6g}. Give a "
            "return in this range, or None for a high one of the data."
        )
    return float(asked)


def _rounded_outwards(lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """Returns the least and the greatest, rounded outwards to few digits, for a person to copy."""
    low, high = float(lows.min()), float(highs.max())
    unit = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    return math.floor(round(low / unit, 3)) * unit, math.ceil(round(high / unit, 3)) * unit
