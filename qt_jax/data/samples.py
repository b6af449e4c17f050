"""Some steps of many, at even distances, for quantiles: as many as are asked for, however many there are."""

from __future__ import annotations

import numpy as np

SAMPLES = 100_000
"""Steps of a dataset kept for quantiles and histograms, and to tell outliers from the rest."""


class Samples:
    """Vectors by name of every `stride`-th step; the stride doubles when there are more than `quota`."""

    def __init__(self, quota: int):
        self._quota, self._seen, self._rows, self.stride = quota, 0, {}, 1

    def add(self, length: int, values: dict[str, np.ndarray]) -> None:
        """The `length` steps of an episode; of each name at least so many rows of one size."""
        chosen = np.arange(-self._seen % self.stride, length, self.stride)
        self._seen += length
        for name, rows in values.items():
            self._rows.setdefault(name, []).append(rows[chosen])
        if sum(map(len, next(iter(self._rows.values())))) > self._quota:
            self.stride *= 2
            self._rows = {name: [np.concatenate(rows)[::2]] for name, rows in self._rows.items()}

    def rows(self, name: str) -> np.ndarray:
        """[n, D]; raises a KeyError before the first step."""
        return np.concatenate(self._rows[name])
