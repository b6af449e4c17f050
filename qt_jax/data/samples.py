"""A bounded sample of a dataset's steps, at even distances, for quantiles."""

from __future__ import annotations

import numpy as np

SAMPLES = 100_000
"""Steps of a dataset that are kept for quantiles, histograms and the search for outliers."""


class Samples:
    """Vectors of every `stride`-th step, by name; the stride doubles when there are more than `quota`."""

    def __init__(self, quota: int):
        self._quota, self._seen, self._kept, self.stride = quota, 0, 0, 1
        self._rows: dict[str, list[np.ndarray]] = {}

    def add(self, length: int, values: dict[str, np.ndarray]) -> None:
        """Adds an episode of `length` steps; `values`: {name: at least as many rows, all of one size}."""
        chosen = np.arange(-self._seen % self.stride, length, self.stride)
        self._seen += length
        if not len(chosen):
            return
        for name, rows in values.items():
            self._rows.setdefault(name, []).append(rows[chosen])
        self._kept += len(chosen)
        if self._kept > self._quota:
            self.stride, self._kept = 2 * self.stride, -(-self._kept // 2)
            self._rows = {name: [np.concatenate(rows)[::2]] for name, rows in self._rows.items()}

    def rows(self, name: str) -> np.ndarray:
        """Returns the rows that were kept, [n, D]; raises a KeyError before the first step."""
        return np.concatenate(self._rows[name])
