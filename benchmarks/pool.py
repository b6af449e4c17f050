"""Every segment of a small dataset without images, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from qt_jax.data.loader import Recipe, SegmentReader
from qt_jax.data.order import Draw, Group
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pool:
    """table: structured rows [C], one a segment, of all but its instruction; instruction: int32 [C], rows of
    `embeddings` [K, E]; first: {(source, episode): row of its first cut}.
    """

    table: np.ndarray
    instruction: np.ndarray
    embeddings: np.ndarray
    first: dict[tuple[int, int], int]


def read_pool(recipe: Recipe, groups: Sequence[Group]) -> Pool:
    """The segments of these groups' episodes.

    Raises:
        UserError: for data with images, or hindsight, which draws an instruction anew at each reading.

    """
    if recipe.mixture.interface.observation.cameras or recipe.relabel_rate:
        raise UserError(
            "Only data without images (config.env.cameras=()) and config.data.relabel_rate=0 fit into one program's memory."
        )
    reader = SegmentReader(recipe)
    tables, embeddings, instruction, first, rows = [], {}, [], {}, 0
    for source, episode in sorted(
        {(group.source, int(episode)) for group in groups for episode in group.episodes}
    ):
        prepared = reader.episode(Draw(source, episode, 0, 0, 0))
        kind = embeddings.setdefault(prepared.embedding.tobytes(), (len(embeddings), prepared.embedding))[0]
        first[source, episode] = rows
        rows += len(prepared.table)
        tables.append(prepared.table)
        instruction += [kind] * len(prepared.table)
    return Pool(
        np.concatenate(tables),
        np.asarray(instruction, np.int32),
        np.stack([e for _, e in embeddings.values()]),
        first,
    )
