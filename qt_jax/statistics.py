"""The ground floor: statistics of a dataset's vectors, and the normalisation that training and serving share.
numpy is enough.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of a dataset's states or actions, one float an entry: mean, standard deviation, 1% and 99% quantiles,
    least and greatest value.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Statistics:
        """Reads `to_json`'s output.

        Raises:
            UserError: if a field is missing or the fingerprint does not match the numbers.

        """
        names = [field.name for field in dataclasses.fields(cls)]
        missing = {*names, "fingerprint"} - set(value)
        if missing:
            raise UserError(f"Statistics lack {sorted(missing)}; export or train the checkpoint again.")
        statistics = cls(*(tuple(value[name]) for name in names))
        if statistics.fingerprint() != value["fingerprint"]:
            raise UserError(
                f"Statistics have fingerprint {statistics.fingerprint()}, expected {value['fingerprint']}: "
                "the file was edited or damaged; restore it from the checkpoint it belongs to."
            )
        return statistics

    def to_json(self) -> dict[str, Any]:
        return {name: list(values) for name, values in dataclasses.asdict(self).items()} | {
            "fingerprint": self.fingerprint()
        }

    def fingerprint(self) -> str:
        return hashlib.sha256(np.asarray(dataclasses.astuple(self), np.float64).tobytes()).hexdigest()[:16]

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """Raw [..., n] to float32 of about unit scale; a constant entry becomes 0; clipped to +-10."""
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scaled = np.where(std > 1e-6, (values - mean) / np.maximum(std, 1e-6), 0.0)
        return np.clip(scaled, -10.0, 10.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Outlier:
    """A bound of entry `dim` of a dataset's vectors far from nearly all values, which lie in `rest` (least,
    greatest).
    """

    dim: int
    bound: float
    rest: tuple[float, float]


def outlying(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Outlier]:
    """Finds the bounds that a few values make: with bins between them nearly all values would share a few
    bins.

    A bound is one if it is farther from the rest than ten times the rest's range. The rest are `values`
    without the few greatest and the few least: 2% of them, at most three, or 0.1% where that is more. An
    entry whose rest is one value has none: a gripper or an end-of-episode flag that is rarely set is no
    mistake.

    Args:
        values: [n, D], all of them or a sample.
        low, high: [D], the least and greatest of all.

    """
    count = len(values)
    few = min(max(count // 50, 1), max(3, count // 1000))
    if count <= 2 * few:
        return []
    ordered = np.sort(np.asarray(values, np.float64), axis=0)
    least, greatest = ordered[few], ordered[-1 - few]
    found = []
    for dim, (start, end) in enumerate(zip(least.tolist(), greatest.tolist())):
        reach = 10.0 * (end - start)
        for bound, distance in (
            (float(low[dim]), start - float(low[dim])),
            (float(high[dim]), float(high[dim]) - end),
        ):
            if distance > reach > 0.0:
                found.append(Outlier(dim, bound, (start, end)))
    return found
