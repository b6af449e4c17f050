"""A bounded sample of a dataset's steps, at even distances, for quantiles."""

from __future__ import annotations

import numpy as np

SAMPLES = 100_000
"""Steps of a dataset that are kept for quantiles, histograms and the search for outliers."""


class Samples:
    """Vectors of every `stride`-th step, by name; the stride doubles while there are more than `quota`.

    So what is kept depends on the steps and the quota alone. seen: the number of all steps.
    """

    def __init__(self, quota: int):
        self._quota, self.seen, self.stride = quota, 0, 1
        self._rows: dict[str, list[np.ndarray]] = {}

    @classmethod
    def of(cls, rows: dict[str, np.ndarray], seen: int, stride: int) -> Samples:
        """Returns the samples that had these rows."""
        found = cls(max(1, -(-seen // stride)))
        found.seen, found.stride, found._rows = seen, stride, {name: [own] for name, own in rows.items()}
        return found

    def add(self, length: int, values: dict[str, np.ndarray]) -> None:
        """Adds an episode of `length` steps; `values`: {name: at least as many rows, all of one size}."""
        chosen = np.arange(-self.seen % self.stride, length, self.stride)
        self.seen += length
        if not len(chosen):
            return
        for name, rows in values.items():
            self._rows.setdefault(name, []).append(rows[chosen])
        stride = self.stride_of(self._quota)
        if stride > self.stride:
            self._rows = {name: [self.every(name, stride)] for name in self._rows}
            self.stride = stride

    def stride_of(self, quota: int) -> int:
        """Returns the least stride, a power of two, with which no more than `quota` of the steps are kept."""
        stride = 1
        while -(-self.seen // stride) > quota:
            stride *= 2
        return stride

    def every(self, name: str, stride: int) -> np.ndarray:
        """Returns the rows of every `stride`-th step, a multiple of the samples' own stride."""
        return self.rows(name)[:: stride // self.stride]

    def rows(self, name: str) -> np.ndarray:
        """Returns the rows that were kept, [n, D]; raises a KeyError before the first step."""
        return np.concatenate(self._rows[name])
