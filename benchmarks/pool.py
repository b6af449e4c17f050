"""All segments of a small dataset without images, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from qt_jax.data.loader import Recipe, SegmentReader
from qt_jax.data.order import Draw, Group
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pool:
    """The C segments of a dataset, and K embeddings of their instructions."""

    table: np.ndarray
    """Structured rows [C]: all of a segment but its instruction."""
    instruction: np.ndarray
    """int32 [C], rows of `embeddings`."""
    embeddings: np.ndarray
    """float32 [K, E]."""
    first: dict[tuple[int, int], int]
    """{(source, episode): row of its first cut}."""

    def rows(self, groups: Iterable[Group], without: Collection[tuple[int, int]] = ()) -> np.ndarray:
        """Returns the rows [R] of these groups' episodes, but those `without`, {(source, episode)}."""
        cuts = {
            (group.source, int(episode)): count
            for group in groups
            for episode, count in zip(group.episodes, group.cuts)
        }
        return np.concatenate(
            [self.first[key] + np.arange(count) for key, count in cuts.items() if key not in without]
        )


def read_pool(recipe: Recipe, groups: Sequence[Group]) -> Pool:
    """Reads the segments of these groups' episodes.

    Raises:
        UserError: for data with images, or hindsight, which draws an instruction at each reading.

    """
    cameras, rate = recipe.mixture.interface.observation.cameras, recipe.relabel_rate
    if cameras or rate:
        raise UserError(
            f"config.env.cameras={cameras}, config.data.relabel_rate={rate}: a run without images and "
            "hindsight is expected, so that all data fits into one program's memory; set () and 0."
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
