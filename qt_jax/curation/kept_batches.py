"""What a collection has so far: finished batches of episodes on disk, until the dataset is written."""

from __future__ import annotations

import hashlib
import json
import pickle
from typing import Any

from etils import epath

import qt_jax
from qt_jax import storage
from qt_jax.data.recorded import RecordedEpisode
from qt_jax.envs import collectors

FOLDER = "collecting"


class KeptBatches:
    """The finished batches of one collection, in a folder of its settings below its dataset.

    So a collection that was killed goes on after them, and loses no more than the batches under way.

    Args:
        config: the whole experiment's; `env`, `collect` and `data.path` are used.

    Attributes:
        folder: where they are.
    """

    def __init__(self, config: Any):
        self._root = epath.Path(config.data.path) / FOLDER
        self.folder = self._root / hashlib.sha256(_settings(config).encode()).hexdigest()[:12]

    def finished(self, batches: int) -> set[int]:
        """Returns the numbers of the batches that are there, among so many."""
        return {number for number in range(batches) if self._file(number).exists()}

    def others(self) -> list[str]:
        """Returns the folders of collections with other settings, which are not used."""
        if not self._root.exists():
            return []
        return sorted(str(folder) for folder in self._root.iterdir() if folder != self.folder)

    def write(self, number: int, episodes: list[RecordedEpisode]) -> None:
        """Writes a batch, whole or not at all."""
        with storage.writing(self._file(number)):
            self.folder.mkdir(parents=True, exist_ok=True)
            storage.replace_bytes(self._file(number), pickle.dumps(episodes))

    def read(self, number: int) -> list[RecordedEpisode]:
        """Reads a batch that is there."""
        return pickle.loads(self._file(number).read_bytes())

    def remove(self) -> None:
        """Removes all of it, once the dataset is written."""
        self._root.rmtree()

    def _file(self, number: int) -> epath.Path:
        return self.folder / f"{number:06d}.pickle"


def _settings(config: Any) -> str:
    """Returns all settings that decide what the episodes hold."""
    free = set(collectors.how_written())
    collect = {key: value for key, value in config.collect.to_dict().items() if key not in free}
    return json.dumps([qt_jax.__version__, config.env.to_dict(), collect, _files(collect.get("policy", ""))])


def _files(policy: str) -> list[tuple[str, float | None]]:
    """Lists the checkpoints of the run that acts, or the files of the artefact, with their times."""
    if not policy:
        return []
    folder = epath.Path(policy)
    if (folder / "checkpoints").exists():
        folder /= "checkpoints"
    elif not folder.is_dir():
        folder = folder.parent
    return sorted((file.name, file.stat().mtime) for file in folder.iterdir())
