"""Statistics of a dataset's vectors, the normalisation by them, and outliers. Needs numpy alone."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of a dataset's states or actions, one number for each entry of the vector.

    mean, std: mean and standard deviation; q01, q99: 1% and 99% quantiles; low, high: least and greatest.
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
        """Returns {field: list of numbers}, and the fingerprint under "fingerprint"."""
        return {name: list(values) for name, values in dataclasses.asdict(self).items()} | {
            "fingerprint": self.fingerprint()
        }

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with any of the numbers."""
        return hashlib.sha256(np.asarray(dataclasses.astuple(self), np.float64).tobytes()).hexdigest()[:16]

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """Normalises raw vectors [..., n] to float32 of zero mean and unit deviation, clipped to +-10.

        A constant entry becomes 0.
        """
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        scaled = np.where(std > 1e-6, (values - mean) / np.maximum(std, 1e-6), 0.0)
        return np.clip(scaled, -10.0, 10.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Outlier:
    """A bound of entry `dim` of a dataset's vectors that lies far from nearly all values.

    rest: the least and the greatest of these values.
    """

    dim: int
    bound: float
    rest: tuple[float, float]


def outlying(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Outlier]:
    """Finds the bounds that a few values make; bins between such bounds would be nearly all empty.

    A bound is an outlier if it is farther from the rest than ten times the rest's range. The rest is `values`
    without the few greatest and the few least: 2% of them, at most three, or 0.1% where that is more. An
    entry whose rest is one value has no outlier: a gripper or an end-of-episode flag may be set rarely.

    Args:
        values: [n, D], all of them or a sample.
        low: [D], the least of all values.
        high: [D], the greatest of all values.

    """
    count = len(values)
    few = min(max(count // 50, 1), max(3, count // 1000))
    if count <= 2 * few:
        return []

    ordered = np.sort(np.asarray(values, np.float64), axis=0)
    least, greatest = ordered[few], ordered[-1 - few]

    found = []
    for dim, (start, end) in enumerate(zip(least.tolist(), greatest.tolist())):
        bounds, reach = (float(low[dim]), float(high[dim])), 10.0 * (end - start)
        for bound, distance in zip(bounds, (start - bounds[0], bounds[1] - end)):
            if distance > reach > 0.0:
                found.append(Outlier(dim, bound, (start, end)))
    return found
