"""What the pass over a dataset finds in one of its files."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from qt_jax.data import episodes, npz
from qt_jax.data.episodes import Episode
from qt_jax.data.samples import Samples
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.stored import BadRecord, BadShard, Stored, named
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATIONS

COLUMNS = {"place": np.int32, "position": np.int64, "size": np.int64, "id_hash": np.float64,
           "piece": np.int32, "length": np.int32, "success": bool, "terminal": bool,
           "demonstration": bool, "intervened": np.int32, "dt": np.float32, "final_reward": np.float32,
           "dense": bool, "digest": np.uint64}  # fmt: skip
"""{column: dtype}; `Index` says what they hold. digest: of id, actions, rewards and interventions."""
NAMES = ("instruction", "task", "collector")
"""Columns of texts."""
MOMENTS = ("count", "total", "squares", "low", "high")
"""Number of vectors, their sums, sums of squares, least and greatest numbers."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What was found in one file.

    columns: {name: an entry for each episode}, of `COLUMNS`, and of `NAMES` numbers into `names`
    names: {column: texts}
    embeddings: {instruction: its stored embedding}, where there is one
    moments: {"action" and "state": {of `MOMENTS`: numbers}}, as they are stored
    samples: of "action" and "state"
    rewards: float32, those of the `dense` episodes
    problems: what is wrong with each damaged episode
    read: number of records that hold an episode
    left_out: number of records that the standardiser left out
    content: a digest of the records
    file: the file's name, where an id or a problem has it, else empty
    """

    columns: dict[str, np.ndarray]
    names: dict[str, tuple[str, ...]]
    embeddings: dict[str, np.ndarray]
    moments: dict[str, dict[str, np.ndarray]]
    samples: Samples
    rewards: np.ndarray
    problems: tuple[str, ...]
    read: int
    left_out: int
    content: str
    file: str

    def to_bytes(self) -> bytes:
        """Returns the part as the bytes of an npz file."""
        arrays = {f"columns/{name}": column for name, column in self.columns.items()}
        arrays |= {
            f"moments/{name}/{what}": x for name, own in self.moments.items() for what, x in own.items()
        }
        arrays |= {f"samples/{name}": self.samples.rows(name) for name in self.moments}
        arrays |= {"rewards": self.rewards, "embeddings": _joined(list(self.embeddings.values()))}
        rest = {
            name: getattr(self, name) for name in ("names", "problems", "read", "left_out", "content", "file")
        }
        rest["embedded"] = [[name, len(vector)] for name, vector in self.embeddings.items()]
        rest["samples"] = {"seen": self.samples.seen, "stride": self.samples.stride}
        return npz.to_bytes(arrays, rest)

    @classmethod
    def from_bytes(cls, data: bytes) -> Part:
        """Reads what `to_bytes` returned."""
        arrays, rest = npz.from_bytes(data)
        moments: dict[str, dict[str, np.ndarray]] = {}
        for name, x in npz.group(arrays, "moments/").items():
            moments.setdefault(name.partition("/")[0], {})[name.partition("/")[2]] = x
        lengths = [length for _, length in rest["embedded"]]
        vectors = np.split(arrays["embeddings"], np.cumsum(lengths)[:-1]) if lengths else []
        return cls(
            columns=npz.group(arrays, "columns/"),
            names={name: tuple(texts) for name, texts in rest["names"].items()},
            embeddings={name: vector for (name, _), vector in zip(rest["embedded"], vectors)},
            moments=moments,
            samples=Samples.of(npz.group(arrays, "samples/"), **rest["samples"]),
            rewards=arrays["rewards"],
            problems=tuple(rest["problems"]),
            read=rest["read"],
            left_out=rest["left_out"],
            content=rest["content"],
            file=rest["file"],
        )


def scan(
    directory: Stored, spec: DatasetSpec, step_penalty: float, quota: int, cache: str, number: int
) -> Part:
    """Reads all records of the shard of this number.

    Args:
        directory: the opened dataset.
        spec: how the dataset is read.
        step_penalty: subtracted from every reward.
        quota: most steps of the shard that are sampled.
        cache: as in `Stored.scan`.
        number: of the shard.

    Raises:
        UserError: if the shard cannot be opened, or holds an episode of another environment.

    """
    shard = directory.shards[number]
    found = _Found(Samples(quota), step_penalty)
    digest = hashlib.sha256()

    try:
        for place, (position, record) in enumerate(scan_with_digest(directory, cache, number, digest)):
            try:
                if isinstance(record, BadRecord):
                    raise record
                episode = episodes.read(directory.parse(record), spec, step_penalty)
            except BadRecord as error:
                found.problems.append(named(directory.where(number, place), error))
                continue
            except UserError as error:
                raise UserError(named(directory.where(number, place), error)) from error
            if episode is None:
                found.left_out += 1
                continue
            found.measure(episode)
            found.nameless |= not episode.episode_id
            identity = episode.episode_id or f"{shard.name}/{place}"
            lies = (place, position, len(record), episodes.id_hash(identity))
            for which, piece in enumerate(episodes.pieces(episode, spec)):
                found.add(piece, (*lies, which), identity)
    except BadShard as error:
        missing = shard.examples - found.read - len(found.problems) - found.left_out
        line = f"{directory.path}: {shard.name} {error}; truncated or damaged, copy or collect it again"
        found.problems += [line] * missing

    return found.part(digest.hexdigest(), shard.name)


def scan_with_digest(
    directory: Stored, cache: str, number: int, digest: Any
) -> Iterator[tuple[int, bytes | BadRecord]]:
    """Yields what `Stored.scan` does, and adds each record to the digest."""
    for position, record in directory.scan(number, cache):
        digest.update(record if isinstance(record, bytes) else str(record).encode())
        yield position, record


class _Found:
    """What was found so far."""

    def __init__(self, samples: Samples, step_penalty: float):
        self._samples, self._usual = samples, np.float32(-step_penalty)
        self._columns: dict[str, list] = {name: [] for name in (*COLUMNS, *NAMES)}
        self._numbers: dict[str, dict[str, int]] = {name: {} for name in NAMES}
        self._moments: dict[str, dict[str, Any]] = collections.defaultdict(dict)
        self._embeddings: dict[str, np.ndarray] = {}
        self._rewards: list[np.ndarray] = []
        self.problems: list[str] = []
        self.read = self.left_out = 0
        self.nameless = False

    def measure(self, episode: Episode) -> None:
        """Adds the actions and states of an episode as it is stored."""
        self.read += 1
        for name, values in (("action", episode.actions), ("state", episode.state)):
            values = values.astype(np.float64)
            new = (len(values), values.sum(0), np.square(values).sum(0), values.min(0), values.max(0))
            old = self._moments[name] or dict(zip(MOMENTS, (0, 0.0, 0.0, np.inf, -np.inf)))
            joined = (np.add, np.add, np.add, np.minimum, np.maximum)
            self._moments[name] = {key: join(old[key], x) for key, join, x in zip(MOMENTS, joined, new)}
        self._samples.add(episode.length, {"action": episode.actions, "state": episode.state})

    def add(self, episode: Episode, lies: tuple, fallback_id: str) -> None:
        """Adds an episode that is trained on; `lies`: the first of `COLUMNS`, up to "piece"."""
        identity = episode.episode_id or fallback_id
        dense = bool(np.any(episode.rewards[:-1] != self._usual))
        content = identity.encode() + episode.actions.tobytes() + episode.rewards.tobytes()
        intervened = -1
        if episode.intervention is not None:
            intervened = int(episode.intervention.sum())
            content += episode.intervention.tobytes()
        digest = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
        row = (
            *lies, episode.length, episode.success, episode.terminal, episode.collector in DEMONSTRATIONS,
            intervened, episode.dt, episode.rewards[-1], dense, digest,
        )  # fmt: skip
        for name, value in zip(COLUMNS, row, strict=True):
            self._columns[name].append(value)
        for name in NAMES:
            numbers = self._numbers[name]
            self._columns[name].append(numbers.setdefault(getattr(episode, name), len(numbers)))
        if dense:
            self._rewards.append(episode.rewards)
        if episode.embedding is not None:
            self._embeddings.setdefault(episode.instruction, episode.embedding)

    def part(self, content: str, file: str) -> Part:
        """Returns all of it; `content`: a digest of the records; `file`: their file's name."""
        dtypes = COLUMNS | dict.fromkeys(NAMES, np.int32)
        return Part(
            columns={name: np.asarray(values, dtypes[name]) for name, values in self._columns.items()},
            names={name: tuple(numbers) for name, numbers in self._numbers.items()},
            embeddings=self._embeddings,
            moments={name: {k: np.asarray(x) for k, x in own.items()} for name, own in self._moments.items()},
            samples=self._samples,
            rewards=_joined(self._rewards),
            problems=tuple(self.problems),
            read=self.read,
            left_out=self.left_out,
            content=content,
            file=file if self.nameless or self.problems else "",
        )


def _joined(vectors: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *vectors])
