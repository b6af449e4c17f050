"""One pass over a dataset, kept on disk: where each episode lies and what it is, and statistics of its
actions and states.

The pass reads every record once, decodes no image, and checks what training relies on. Its result is cached
under all that decides it: names and sizes of the dataset's files, the code that reads them, and the settings.
A file with another time than it had is read once more, not parsed: the pass is repeated only if its records
changed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from qt_jax import storage, text
from qt_jax.data import code, episodes, records
from qt_jax.data.episodes import Episode
from qt_jax.data.records import BadRecord, BadShard, Directory, Shard
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.data.specs import DatasetSpec
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATION
from qt_jax.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class Index:
    """Columns have one entry for each episode that is used.

    shard, place, position, size: where the record lies; `place` counts the records of its file. length: T.
    instruction, task, collector: numbers into `instructions`, `tasks` and `collectors`. id_hash: a uniform
    number in [0, 1) from the episode's id, for splits. The others: see `_scan`. samples: {"action": float32
    [n, D], "state": float32 [n, state_dim]}, raw. skipped, left_out: counts by reason. embeddings: float32
    [instructions, E]. rewards: float32, of the `dense` episodes, one after the other. contents: a digest of
    each file's records; modified: each file's time when it was looked at.
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
        return {name: number for number, name in enumerate(self.instructions)}

    @functools.cached_property
    def unit_embeddings(self) -> np.ndarray:
        return self.embeddings / np.maximum(np.linalg.norm(self.embeddings, axis=1, keepdims=True), 1e-9)

    @functools.cached_property
    def instructions_of_tasks(self) -> dict[str, np.ndarray]:
        """{task: numbers of the instructions that its episodes have}."""
        pairs = np.unique(np.stack([self.columns["task"], self.columns["instruction"]]), axis=1)
        return {name: pairs[1, pairs[0] == number] for number, name in enumerate(self.tasks)}


def load(
    directory: Directory,
    spec: DatasetSpec,
    *,
    step_penalty: float,
    text_encoder: str,
    max_skipped: int,
    workers: int,
    cache: str,
) -> Index:
    """From the cache, or from a pass over the dataset by so many `workers` (0: this process).

    Raises:
        UserError: for more damaged records than `max_skipped`, each kind named with its place.

    """
    path = (
        storage.directory(cache) / "index" / f"{_key(directory, spec, step_penalty, text_encoder)[:32]}.npz"
    )
    each = functools.partial(_of_shards, directory, workers)
    kept = _cached(path)
    if kept is not None and _holds(kept, directory, cache, each):
        index = kept
        _check_damage(
            [problem for problem, count in index.skipped.items() for _ in range(count)],
            directory,
            max_skipped,
        )
    else:
        parts = each(
            functools.partial(_scan, directory, spec, step_penalty, cache), range(len(directory.shards))
        )
        index = _merge(directory, parts, stored_encoder(directory, spec), text_encoder, max_skipped)
    times = tuple(shard.modified for shard in directory.shards)
    if index is not kept or index.modified != times:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.replace_bytes(path, _to_bytes(dataclasses.replace(index, modified=times)))
    return index


def _cached(path: Any) -> Index | None:
    """None also for a file of ours that cannot be read, which is then written anew."""
    try:
        return _from_bytes(path.read_bytes()) if path.exists() else None
    except Exception:  # numpy's and zip's are of many kinds
        return None


def _of_shards(directory: Directory, workers: int, function: Callable, shards: Sequence) -> list:
    """What `function` gives for each, by so many processes. On a terminal, and where it takes long: a bar."""
    name = f"index of {directory.path}"
    shown = functools.partial(tqdm.tqdm, total=len(shards), desc=name, unit="shard", delay=2, disable=None)
    if workers and len(shards) > 1:
        with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            return list(shown(pool.map(function, shards)))
    return list(shown(map(function, shards)))


def _holds(index: Index, directory: Directory, cache: str, each: Callable) -> bool:
    """Whether the records are those of the index: where a file has another time, it is read again to see."""
    touched = [i for i, shard in enumerate(directory.shards) if shard.modified != index.modified[i]]
    contents = (
        each(functools.partial(_content, cache), [directory.shards[i] for i in touched]) if touched else []
    )
    return contents == [index.contents[i] for i in touched]


def _content(cache: str, shard: Shard) -> str:
    """A digest of a shard's records."""
    digest = hashlib.sha256()
    with contextlib.suppress(BadShard):
        for _ in _telling(digest, records.scan(shard, cache)):
            pass
    return digest.hexdigest()


def _telling(
    digest: Any, scanned: Iterable[tuple[int, bytes | BadRecord]]
) -> Iterator[tuple[int, bytes | BadRecord]]:
    """What is scanned, the digest told of each record."""
    for position, record in scanned:
        digest.update(record if isinstance(record, bytes) else str(record).encode())
        yield position, record


def _key(directory: Directory, spec: DatasetSpec, step_penalty: float, text_encoder: str) -> str:
    """Of all that an index depends on, but for the files' contents. Bounds and bins are none of it."""
    apart = ("path", "standardise", "achieves", "action", "observation")
    rest = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name not in apart}
    read = (spec.action.dims, spec.observation.cameras, spec.observation.state_dim)
    roots = [spec.standardise, Directory.parse, _scan, _merge]
    if ":" in text_encoder and text_encoder != stored_encoder(directory, spec):
        roots.append(text.users(text_encoder))
    features = (storage.directory(directory.path) / "features.json").read_bytes()
    files = [(shard.name, shard.split, shard.size, shard.examples) for shard in directory.shards]
    inputs = (files, features, sorted(rest.items()), read, code.digest(*roots), step_penalty, text_encoder)
    return hashlib.sha256(repr(inputs).encode()).hexdigest()


def _check_damage(problems: Sequence[str], directory: Directory, max_skipped: int) -> None:
    if len(problems) > max_skipped:
        raise UserError(
            f"{problems[0]} ({len(problems)} damaged of {sum(s.examples for s in directory.shards)} "
            f"episodes; config.data.max_skipped={max_skipped}). Repair the dataset or raise the cap."
        )


def stored_encoder(directory: Directory, spec: DatasetSpec) -> str | None:
    """Name of the encoder of a dataset's own embeddings, or None."""
    if spec.text_encoder is not None or "instruction_embedding" not in directory.features:
        return spec.text_encoder
    return directory.features["instruction_embedding"].doc.desc


@dataclasses.dataclass
class _Part:
    """What one shard holds."""

    samples: Samples
    rows: list[tuple] = dataclasses.field(default_factory=list)
    embeddings: dict[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    moments: dict[str, Any] = dataclasses.field(default_factory=dict)
    rewards: list[np.ndarray] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    left_out: int = 0
    content: str = ""


COLUMNS = {"shard": np.int32, "place": np.int32, "position": np.int64, "size": np.int64, "length": np.int32,
           "success": bool, "terminal": bool, "demonstration": bool, "dt": np.float32,
           "final_reward": np.float32, "dense": bool, "id_hash": np.float64}  # fmt: skip


def _scan(directory: Directory, spec: DatasetSpec, step_penalty: float, cache: str, number: int) -> _Part:
    """One shard.

    `final_reward`, and all rewards where it is `dense` (not just the penalty before it), let returns be known
    without the record.
    """
    shard = directory.shards[number]
    part = _Part(Samples(max(1, SAMPLES // len(directory.shards))))
    name = f"{directory.path}: {shard.name}"
    digest = hashlib.sha256()
    try:
        for place, (position, record) in enumerate(_telling(digest, records.scan(shard, cache))):
            try:
                if isinstance(record, BadRecord):
                    raise record
                episode = episodes.read(directory.parse(record), spec, step_penalty)
            except BadRecord as error:
                part.problems.append(records.named(f"{name}, episode {place}", error))
                continue
            except UserError as error:
                raise UserError(records.named(f"{name}, episode {place}", error)) from error
            if episode is None:
                part.left_out += 1
                continue
            lies = (number, place, position, len(record))
            _add(part, episode, lies, f"{shard.name}/{place}", step_penalty)
    except BadShard as error:
        missing = shard.examples - len(part.rows) - len(part.problems) - part.left_out
        part.problems += [f"{name} {error}; truncated or damaged, copy or collect it again"] * missing
    part.content = digest.hexdigest()
    return part


def _add(part: _Part, episode: Episode, place: tuple, fallback_id: str, step_penalty: float) -> None:
    identity = episode.episode_id or fallback_id
    id_hash = episodes.id_hash(identity)
    dense = bool(np.any(episode.rewards[:-1] != np.float32(-step_penalty)))
    content = hashlib.sha256(
        identity.encode() + episode.actions.tobytes() + episode.rewards.tobytes()
    ).digest()[:8]
    part.rows.append(
        (
            *place,
            episode.length,
            episode.success,
            episode.terminal,
            episode.collector == DEMONSTRATION,
            episode.dt,
            # fmt: skip
            episode.rewards[-1],
            dense,
            id_hash,
            episode.instruction,
            episode.task,
            episode.collector,
            content,
        )
    )
    if dense:
        part.rewards.append(episode.rewards)
    part.embeddings.setdefault(episode.instruction, episode.embedding)
    for name, values in (("action", episode.actions), ("state", episode.state)):
        values = values.astype(np.float64)
        count, total, squares, low, high = part.moments.get(name, (0, 0.0, 0.0, np.inf, -np.inf))
        part.moments[name] = (count + len(values), total + values.sum(0), squares + np.square(values).sum(0),
                              np.minimum(low, values.min(0)), np.maximum(high, values.max(0)))  # fmt: skip
    part.samples.add(episode.length, {"action": episode.actions, "state": episode.state})


def _merge(
    directory: Directory, parts: list[_Part], encoder: str | None, text_encoder: str, max_skipped: int
) -> Index:
    problems = [problem for part in parts for problem in part.problems]
    _check_damage(problems, directory, max_skipped)
    rows = [row for part in parts for row in part.rows]
    if not rows:
        raise UserError(
            f"{directory.path} holds no episode that can be used; collect more or correct its DatasetSpec."
        )
    *values, instruction, task, collector, content = zip(*rows)
    columns = {name: np.asarray(value, dtype) for (name, dtype), value in zip(COLUMNS.items(), values)}
    instructions, columns["instruction"] = _numbered(instruction)
    tasks, columns["task"] = _numbered(task)
    collectors, columns["collector"] = _numbered(collector)
    stored: dict[str, np.ndarray | None] = {}
    for part in parts:
        stored |= {key: value for key, value in part.embeddings.items() if stored.get(key) is None}
    use_stored = encoder == text_encoder
    embeddings = [
        stored[name] if use_stored and stored[name] is not None else text.embed(name, text_encoder)
        for name in instructions
    ]
    if len({len(embedding) for embedding in embeddings}) > 1:
        raise UserError(
            f"Text encoder {text_encoder!r} gives vectors of lengths {sorted({len(e) for e in embeddings})} for the instructions of "
            f"{directory.path}; expected one length."
        )
    parts_with_rows = [part for part in parts if part.rows]
    thinnest = max(part.samples.stride for part in parts_with_rows)
    samples = {
        name: np.concatenate(
            [part.samples.rows(name)[:: thinnest // part.samples.stride] for part in parts_with_rows]
        )
        for name in ("action", "state")
    }
    statistics = {
        name: _statistics([part.moments[name] for part in parts_with_rows], samples[name]) for name in samples
    }
    skipped: dict[str, int] = {}
    for problem in problems:
        skipped[problem] = skipped.get(problem, 0) + 1
    fingerprint = hashlib.sha256(b"".join(content)).hexdigest()[:16]
    left_out = sum(part.left_out for part in parts)
    rewards = np.concatenate([np.zeros(0, np.float32), *(paid for part in parts for paid in part.rewards)])
    contents, modified = zip(
        *((part.content, shard.modified) for part, shard in zip(parts, directory.shards))
    )
    return Index(
        columns, instructions, tasks, collectors, np.stack(embeddings), samples, statistics, skipped,
        left_out, fingerprint, rewards, contents, modified,
    )  # fmt: skip


def _numbered(names: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    unique, inverse = np.unique(np.asarray(names, object), return_inverse=True)
    return tuple(map(str, unique)), inverse.astype(np.int32)


def _statistics(moments: list[tuple], samples: np.ndarray) -> Statistics:
    count, total, squares = (sum(moment[i] for moment in moments) for i in range(3))
    low, high = np.min([moment[3] for moment in moments], 0), np.max([moment[4] for moment in moments], 0)
    mean = total / count
    std = np.where(
        low == high, 0.0, np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
    )  # a constant is one in spite of rounding
    q01, q99 = np.quantile(samples, [0.01, 0.99], axis=0) if samples.shape[1] else np.zeros((2, 0))
    return Statistics(*(tuple(np.asarray(x, np.float64).tolist()) for x in (mean, std, q01, q99, low, high)))


def _to_bytes(index: Index) -> bytes:
    buffer = io.BytesIO()
    rest = {
        "instructions": index.instructions, "tasks": index.tasks, "collectors": index.collectors, "skipped": index.skipped,
        "left_out": index.left_out, "fingerprint": index.fingerprint,
        "contents": index.contents, "modified": index.modified,
        "statistics": {name: value.to_json() for name, value in index.statistics.items()},
    }  # fmt: skip
    arrays = {f"columns/{k}": v for k, v in index.columns.items()} | {
        f"samples/{k}": v for k, v in index.samples.items()
    }
    arrays |= {"embeddings": index.embeddings, "rewards": index.rewards}
    np.savez(buffer, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def _from_bytes(data: bytes) -> Index:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        rest = json.loads(arrays["rest"].tobytes())

        def group(prefix):
            return {
                name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)
            }

        return Index(
            group("columns/"), *(tuple(rest[name]) for name in ("instructions", "tasks", "collectors")), arrays["embeddings"],
            group("samples/"), {name: Statistics.from_json(value) for name, value in rest["statistics"].items()}, rest["skipped"],
            rest["left_out"], rest["fingerprint"], arrays["rewards"], tuple(rest["contents"]), tuple(rest["modified"]),
        )  # fmt: skip


def where(directory: Directory, index: Index, episode: int) -> str:
    """Dataset, file and place in the file of an episode, as messages name it."""
    shard, place = (index.columns[name][episode] for name in ("shard", "place"))
    return f"{directory.path}: {directory.shards[shard].name}, episode {place}"


def read(
    directory: Directory, index: Index, spec: DatasetSpec, episode: int, step_penalty: float, cache: str
) -> Episode:
    """An episode of the index, from storage.

    Raises:
        UserError: if it can no longer be read.

    """
    try:
        record = records.read(*shard_of(directory, index, episode), cache)
        return episodes.read(directory.parse(record), spec, step_penalty)
    except (BadRecord, OSError) as error:
        place = records.named(where(directory, index, episode), error)
        raise UserError(
            f"{place}, though it was sound when it was indexed; the dataset changed or its storage "
            "is failing."
        ) from error


def shard_of(directory: Directory, index: Index, episode: int) -> tuple[Shard, int, int]:
    """Shard, position and size of an episode's record: what `records.read` takes."""
    columns = index.columns
    return (
        directory.shards[columns["shard"][episode]],
        int(columns["position"][episode]),
        int(columns["size"][episode]),
    )
