"""The index of a dataset: where each episode lies, what it is, and statistics of actions and states."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from qt_jax.data import episodes, npz
from qt_jax.data.episodes import Episode
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.stored import BadRecord, Stored, named
from qt_jax.errors import UserError
from qt_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Index:
    """What is known of a dataset without reading it again.

    columns: one entry for each episode that is used:
        shard, place, position, size: where the record lies; `place` counts the records of its file
        piece: which of those that `DatasetSpec.pieces` makes of the record, from 0
        length: T
        success, terminal, demonstration, dt: the episode's
        intervened: steps at which a person acted; -1: not known
        final_reward, dense: the last reward, and whether other rewards differ from the step penalty
        id_hash: a uniform number in [0, 1) from the episode's id, for splits
        instruction, task, collector: numbers into `instructions`, `tasks` and `collectors`
    embeddings: float32 [instructions, E]
    samples: raw steps, {"action": float32 [n, D], "state": float32 [n, state_dim]}
    statistics: of "action" and "state"
    skipped: {what is wrong: number of damaged episodes}
    left_out: number of episodes that the standardiser left out
    fingerprint: changes with the ids, order, actions, rewards and interventions of the episodes
    rewards: float32, those of the `dense` episodes, one after the other
    contents: a digest of each file's records
    modified: each file's modification time when its records were read
    """

    columns: dict[str, np.ndarray]
    instructions: tuple[str, ...]
    tasks: tuple[str, ...]
    collectors: tuple[str, ...]
    embeddings: np.ndarray
    samples: dict[str, np.ndarray]
    statistics: dict[str, Statistics]
    skipped: dict[str, int]
    left_out: int
    fingerprint: str
    rewards: np.ndarray
    contents: tuple[str, ...]
    modified: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.columns["length"])

    @functools.cached_property
    def instruction_numbers(self) -> dict[str, int]:
        """{instruction: its number}."""
        return {name: number for number, name in enumerate(self.instructions)}

    @functools.cached_property
    def unit_embeddings(self) -> np.ndarray:
        """The embeddings at length 1, [instructions, E]."""
        return self.embeddings / np.maximum(np.linalg.norm(self.embeddings, axis=1, keepdims=True), 1e-9)

    @functools.cached_property
    def instructions_of_tasks(self) -> dict[str, np.ndarray]:
        """{task: numbers of the instructions that its episodes have}."""
        pairs = np.unique(np.stack([self.columns["task"], self.columns["instruction"]]), axis=1)
        return {name: pairs[1, pairs[0] == number] for number, name in enumerate(self.tasks)}

    @property
    def outcomes(self) -> dict[str, np.ndarray]:
        """{task: whether each of its episodes succeeded, bool [its episodes]}."""
        success, task = self.columns["success"], self.columns["task"]
        return {name: success[task == number] for number, name in enumerate(self.tasks)}

    def to_bytes(self) -> bytes:
        """Returns the index as the bytes of an npz file."""
        apart = ("columns", "embeddings", "samples", "statistics", "rewards")
        names = [field.name for field in dataclasses.fields(self) if field.name not in apart]
        rest = {name: getattr(self, name) for name in names}
        rest["statistics"] = {name: value.to_json() for name, value in self.statistics.items()}
        arrays = {"embeddings": self.embeddings, "rewards": self.rewards}
        arrays |= {f"columns/{name}": column for name, column in self.columns.items()}
        arrays |= {f"samples/{name}": rows for name, rows in self.samples.items()}
        return npz.to_bytes(arrays, rest)

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """Reads what `to_bytes` returned."""
        arrays, rest = npz.from_bytes(data)
        return cls(
            columns=npz.group(arrays, "columns/"),
            instructions=tuple(rest["instructions"]),
            tasks=tuple(rest["tasks"]),
            collectors=tuple(rest["collectors"]),
            embeddings=arrays["embeddings"],
            samples=npz.group(arrays, "samples/"),
            statistics={name: Statistics.from_json(value) for name, value in rest["statistics"].items()},
            skipped=rest["skipped"],
            left_out=rest["left_out"],
            fingerprint=rest["fingerprint"],
            rewards=arrays["rewards"],
            contents=tuple(rest["contents"]),
            modified=tuple(rest["modified"]),
        )


def where(directory: Stored, index: Index, episode: int, camera: str = "") -> str:
    """Names the dataset, the file and the place of an episode for messages, as `Stored.where` does."""
    shard, place = (int(index.columns[name][episode]) for name in ("shard", "place"))
    return directory.where(shard, place, camera)


def record(directory: Stored, index: Index, episode: int, cache: str) -> dict[str, Any]:
    """Reads all that is stored of an episode of the index, as `Stored.parse` returns it.

    Raises:
        BadRecord: if it is damaged.

    """
    number, position, size = (int(index.columns[name][episode]) for name in ("shard", "position", "size"))
    return directory.parse(directory.read(number, position, size, cache))


def read(
    directory: Stored, index: Index, spec: DatasetSpec, episode: int, step_penalty: float, cache: str
) -> Episode:
    """Reads an episode of the index from storage.

    Args:
        directory: the opened dataset.
        index: the dataset's index.
        spec: how the dataset is read.
        episode: number of the episode in the index.
        step_penalty: subtracted from every reward.
        cache: as in `Stored.scan`.

    Raises:
        UserError: if it can no longer be read.

    """
    try:
        found = episodes.read(record(directory, index, episode, cache), spec, step_penalty)
        if found is None:
            raise BadRecord(f"is left out by {spec.reader}")
        return episodes.pieces(found, spec)[index.columns["piece"][episode]]
    except (BadRecord, OSError) as error:
        place = named(where(directory, index, episode), error)
        raise UserError(
            f"{place}, though it was sound when it was indexed; the dataset changed or its storage "
            "is failing."
        ) from error


def stored_encoder(directory: Stored, spec: DatasetSpec) -> str | None:
    """Returns the name of the encoder of the dataset's own embeddings, or None if it has none."""
    return directory.encoder if spec.text_encoder is None else spec.text_encoder
