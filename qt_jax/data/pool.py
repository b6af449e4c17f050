"""Every segment of a small dataset without images, in memory."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pool:
    """table: structured rows [C], one a segment, of all but its instruction; instruction: int32 [C], rows of
    `embeddings` [K, E]; first: {(source, episode): row of its first cut}.
    """

    table: np.ndarray
    instruction: np.ndarray
    embeddings: np.ndarray
    first: dict[tuple[int, int], int]
