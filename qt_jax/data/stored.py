"""An opened dataset, whatever its format: files that hold records, one an episode."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

VALIDATION = ("validation", "val", "valid")
"""Names of a dataset's own validation split."""


class BadRecord(Exception):
    """One record is damaged; those after it can be read. step: the episode's, if it is known."""

    def __init__(self, text: str, step: int | None = None):
        super().__init__(text)
        self.step = step


def named(place: str, error: Exception) -> str:
    """Returns the error as a line that begins with the place, and with the step if that is known."""
    step = getattr(error, "step", None)
    return f"{place}: {error}" if step is None else f"{place}, step {step}: {error}"


class BadShard(Exception):
    """Nothing after this point of a file can be read."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a dataset, or several small ones that are read together.

    size: in bytes; modified: seconds since 1970; examples: number of records; split: that it belongs to.
    """

    path: str
    file_format: str
    size: int
    modified: float
    examples: int
    split: str = "train"

    @property
    def name(self) -> str:
        """The file's name without its directory."""
        return epath.Path(self.path).name


@dataclasses.dataclass(frozen=True)
class Stored(abc.ABC):
    """An opened dataset.

    path: its directory; shards: the files of `train` and of the dataset's own validation split; unread:
    {other split: its number of episodes}; metadata: what its writer says of it.
    """

    path: str
    shards: tuple[Shard, ...]
    unread: dict[str, int]
    metadata: dict[str, Any]

    @abc.abstractmethod
    def scan(self, number: int, cache: str) -> Iterator[tuple[int, bytes | BadRecord]]:
        """Yields (position, record) of a shard's records in order; a BadRecord stands for a damaged one.

        Args:
            number: of the shard.
            cache: directory for copies of files that lie in a bucket.

        Raises:
            BadShard: if the shard cannot be read from some point on.
            UserError: if it cannot be opened, which is not a damage of it.

        """

    @abc.abstractmethod
    def read(self, number: int, position: int, size: int, cache: str) -> bytes:
        """Reads the record of `size` bytes at a position of `scan`; raises BadRecord if it is damaged."""

    @abc.abstractmethod
    def parse(self, record: bytes) -> dict[str, Any]:
        """Parses a record as a nested dict, for a standardiser; raises BadRecord if it does not parse."""

    @abc.abstractmethod
    def layout(self) -> bytes:
        """Returns all that decides what a record means, to tell datasets apart."""

    def listed(self, number: int) -> str:
        """Returns a digest of what the metadata says of each record of a shard; "" where it says nothing."""
        return ""

    @property
    def encoder(self) -> str | None:
        """The name of the text encoder of embeddings that the dataset stores, if it stores any."""
        return None

    def lies(self, number: int, place: int, camera: str = "") -> tuple[str, int]:
        """Returns the file of a record, and the number of its episode there, for messages.

        Args:
            number: of the shard.
            place: of the record in the shard, from 0.
            camera: whose images the message is about; they may have a file of their own.

        """
        return self.shards[number].name, place

    def where(self, number: int, place: int, camera: str = "") -> str:
        """Names the dataset and what `lies` returns."""
        file, episode = self.lies(number, place, camera)
        return f"{self.path}: {file}, episode {episode}"

    def doubts(self, number: int, place: int) -> list[str]:
        """Returns what is worth a look in the record at a place of a shard, though it can be read."""
        return []

    def own_validation(self) -> np.ndarray:
        """Returns bool [shards]: which belong to the dataset's own validation split."""
        return np.asarray([shard.split != "train" for shard in self.shards], bool)

    def splits(self) -> list[str]:
        """Returns a line for each split other than `train`: how it is used."""
        own, unread = sorted({shard.split for shard in self.shards} - {"train"}), sorted(self.unread.items())
        lines = [f"validation is the dataset's own split {split!r}, nothing of 'train'" for split in own]
        return lines + [f"its split {name!r}, {count} episodes, is not read" for name, count in unread]
