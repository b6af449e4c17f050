"""Rewards and returns of whole datasets, from their indices alone, and whether a value range holds them."""

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
    """Of all episodes of an index, one after the other.

    starts: int [episodes], where each begins. rewards: float32 [steps], the step penalty taken off.
    discounted: float64 [steps], what the rest of the episode paid; of a truncated one, as far as it was seen.
    """

    starts: np.ndarray
    rewards: np.ndarray
    discounted: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """float64 [episodes], sums of the rewards."""
        return np.add.reduceat(self.rewards, self.starts, dtype=np.float64)

    @property
    def least(self) -> np.ndarray:
        """[episodes], of the discounted ones."""
        return np.minimum.reduceat(self.discounted, self.starts)

    @property
    def greatest(self) -> np.ndarray:
        return np.maximum.reduceat(self.discounted, self.starts)

    def outside(self, value_range: tuple[float, float]) -> np.ndarray:
        """Bool [episodes], those of which a return lies outside it, by more than rounding."""
        low, high = value_range
        margin = 1e-5 * (high - low)
        return (self.least < low - margin) | (self.greatest > high + margin)


def of_index(
    index: Index, step_penalty: float, discount: float, dt_ref: float, failed: bool = False
) -> Returns:
    """failed: as hindsight has all episodes, paid nothing."""
    columns = index.columns
    lengths = columns["length"].astype(np.int64)
    ends = np.cumsum(lengths)
    rewards = np.full(ends[-1], 0.0 - step_penalty, np.float32)  # and no -0
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
    """Of all episodes that are trained on or validated on.

    Raises:
        UserError: naming each dataset with returns outside `config.value_range`, and its own range.

    """
    low, high = config.value_range
    problems, spans = [], [(low, high)]
    relabelled = [" as hindsight relabels it (config.data.relabel_rate)"] if config.data.relabel_rate else []
    for source, kind in itertools.product(mixture.sources, ["", *relabelled]):
        used = np.union1d(source.train, source.validation)
        found = of_index(
            source.index, config.data.step_penalty, config.discount, config.dt_ref, failed=bool(kind)
        )
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
"""Of the returns of successful episodes: a good one, not the one stroke of luck (default of this project)."""


def target(source: Source, config: Any) -> float:
    """Returns the return that a robot asks for: `config.agent.target_return`, or a good one of the episodes.

    Raises:
        UserError: if no training episode is like what is asked.

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
            f"({source.directory.path}) have returns from {found.min():.6g} to {found.max():.6g}. Give one of "
            "these, or None for a good one of the data."
        )
    return float(asked)


def _rounded_outwards(lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """The least and the greatest with few digits, to be copied."""
    low, high = float(lows.min()), float(highs.max())
    unit = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    return math.floor(round(low / unit, 3)) * unit, math.ceil(round(high / unit, 3)) * unit
