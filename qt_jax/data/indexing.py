"""Makes the index of a dataset by one pass over its records, or reads it from the cache.

The pass decodes no image, and checks what training relies on. The index is cached under a key of all that
decides it: names and sizes of the dataset's files, the code that reads them, and the settings. If the
modification time of a file changed, its records are read once more but not parsed, and the pass is repeated
only if they changed.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from qt_jax import children, storage, text
from qt_jax.data import code, episodes
from qt_jax.data.episodes import Episode
from qt_jax.data.index import Index, stored_encoder
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.stored import BadRecord, BadShard, Stored, named
from qt_jax.errors import UserError
from qt_jax.specs import DEMONSTRATIONS
from qt_jax.statistics import Statistics


def load(
    directory: Stored,
    spec: DatasetSpec,
    *,
    step_penalty: float,
    text_encoder: str,
    max_skipped: int,
    workers: int,
    cache: str,
) -> Index:
    """Reads the index from the cache, or makes it by a pass over the dataset.

    Args:
        directory: the opened dataset.
        spec: how the dataset is read.
        step_penalty: subtracted from every reward.
        text_encoder: name of the encoder of the embeddings.
        max_skipped: number of damaged records that are allowed.
        workers: number of processes that make the pass; 0: this process.
        cache: directory of the cache.

    Raises:
        UserError: for more damaged records than `max_skipped`; the first is named with its place.

    """
    name = _key(directory, spec, step_penalty, text_encoder)[:32]
    path = storage.directory(cache) / "index" / f"{name}.npz"
    each = functools.partial(_of_shards, directory, workers)
    cached = _cached(path)

    if cached is not None and _is_current(cached, directory, cache, each):
        index = cached
        problems = [problem for problem, count in index.skipped.items() for _ in range(count)]
        _check_damage(problems, directory, max_skipped)
    else:
        scan = functools.partial(_scan, directory, spec, step_penalty, cache)
        parts = each(scan, range(len(directory.shards)))
        index = _merge(directory, parts, stored_encoder(directory, spec), text_encoder, max_skipped)

    times = tuple(shard.modified for shard in directory.shards)
    if index is not cached or index.modified != times:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.replace_bytes(path, dataclasses.replace(index, modified=times).to_bytes())
    return index


def _cached(path: Any) -> Index | None:
    """Reads a cached index; returns None if there is none, or one that cannot be read."""
    try:
        return Index.from_bytes(path.read_bytes()) if path.exists() else None
    except Exception:  # numpy's and zip's are of many kinds
        return None


def _of_shards(directory: Stored, workers: int, function: Callable, shards: Sequence) -> list:
    """Calls `function` for each shard in so many processes; a terminal shows a bar if it takes long."""
    name = f"index of {directory.path}"
    shown = functools.partial(tqdm.tqdm, total=len(shards), desc=name, unit="shard", delay=2, disable=None)
    if workers and len(shards) > 1:
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, spawn, children.end_with_parent) as pool:
            return list(shown(pool.map(function, shards)))
    return list(shown(map(function, shards)))


def _is_current(index: Index, directory: Stored, cache: str, each: Callable) -> bool:
    """Returns whether the records are those of the index; files with another time are read to find out."""
    touched = [i for i, shard in enumerate(directory.shards) if shard.modified != index.modified[i]]
    if not touched:
        return True
    contents = each(functools.partial(_content, directory, cache), touched)
    return contents == [index.contents[i] for i in touched]


def _content(directory: Stored, cache: str, number: int) -> str:
    """Returns a digest of the records of the shard of this number."""
    digest = hashlib.sha256()
    with contextlib.suppress(BadShard):
        for _ in _scan_with_digest(directory, cache, number, digest):
            pass
    return digest.hexdigest()


def _scan_with_digest(
    directory: Stored, cache: str, number: int, digest: Any
) -> Iterator[tuple[int, bytes | BadRecord]]:
    """Yields what `Stored.scan` does, and adds each record to the digest."""
    for position, record in directory.scan(number, cache):
        digest.update(record if isinstance(record, bytes) else str(record).encode())
        yield position, record


def _key(directory: Stored, spec: DatasetSpec, step_penalty: float, text_encoder: str) -> str:
    """Returns a digest of all that decides an index but the files' contents; bounds and bins do not."""
    apart = ("path", "standardise", "achieves", "pieces", "action", "observation", "bounds", "notes")
    rest = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name not in apart}
    read = (spec.action.dims, spec.observation.cameras, spec.observation.state_dim)
    roots: list[Any] = [spec.standardise, type(directory).parse, _scan, _merge]
    if spec.pieces is not None:
        roots.append(spec.pieces)
    if text_encoder != stored_encoder(directory, spec):
        embed = text.find(text_encoder)  # raises before the pass, which may take hours
        roots += [embed] * (":" in text_encoder)
    files = [(shard.name, shard.split, shard.size, shard.examples) for shard in directory.shards]
    parts = (
        files,
        directory.layout(),
        sorted(rest.items()),
        read,
        code.digest(*roots),
        step_penalty,
        text_encoder,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _check_damage(problems: Sequence[str], directory: Stored, max_skipped: int) -> None:
    if len(problems) > max_skipped:
        raise UserError(
            f"{problems[0]} ({len(problems)} damaged of {sum(s.examples for s in directory.shards)} "
            f"episodes; config.data.max_skipped={max_skipped}). Repair the dataset or raise the cap."
        )


@dataclasses.dataclass
class _Part:
    """What the pass found in one shard; `rows` are `COLUMNS` and what `_add` puts after them."""

    samples: Samples
    rows: list[tuple] = dataclasses.field(default_factory=list)
    embeddings: dict[str, np.ndarray | None] = dataclasses.field(default_factory=dict)
    moments: dict[str, Any] = dataclasses.field(default_factory=dict)
    rewards: list[np.ndarray] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    read: int = 0
    left_out: int = 0
    content: str = ""


COLUMNS = {"shard": np.int32, "place": np.int32, "position": np.int64, "size": np.int64,
           "id_hash": np.float64, "piece": np.int32, "length": np.int32, "success": bool, "terminal": bool,
           "demonstration": bool, "dt": np.float32, "final_reward": np.float32, "dense": bool}  # fmt: skip
"""{column: dtype}, in the order of `_Part.rows`; `Index` says what they hold."""


def _scan(directory: Stored, spec: DatasetSpec, step_penalty: float, cache: str, number: int) -> _Part:
    """Reads all records of the shard of this number."""
    shard = directory.shards[number]
    part = _Part(Samples(max(1, SAMPLES // len(directory.shards))))
    name = f"{directory.path}: {shard.name}"
    digest = hashlib.sha256()

    try:
        for place, (position, record) in enumerate(_scan_with_digest(directory, cache, number, digest)):
            try:
                if isinstance(record, BadRecord):
                    raise record
                episode = episodes.read(directory.parse(record), spec, step_penalty)
            except BadRecord as error:
                part.problems.append(named(directory.where(number, place), error))
                continue
            except UserError as error:
                raise UserError(named(directory.where(number, place), error)) from error
            if episode is None:
                part.left_out += 1
                continue
            part.read += 1
            _measure(part, episode)
            identity = episode.episode_id or f"{shard.name}/{place}"
            lies = (number, place, position, len(record), episodes.id_hash(identity))
            for which, piece in enumerate(episodes.pieces(episode, spec)):
                _add(part, piece, (*lies, which), identity, step_penalty)
    except BadShard as error:
        missing = shard.examples - part.read - len(part.problems) - part.left_out
        part.problems += [f"{name} {error}; truncated or damaged, copy or collect it again"] * missing

    part.content = digest.hexdigest()
    return part


def _add(part: _Part, episode: Episode, lies: tuple, fallback_id: str, step_penalty: float) -> None:
    """Adds an episode that is trained on; `lies`: the first `COLUMNS`, up to "piece"."""
    identity = episode.episode_id or fallback_id
    dense = bool(np.any(episode.rewards[:-1] != np.float32(-step_penalty)))
    content = identity.encode() + episode.actions.tobytes() + episode.rewards.tobytes()
    part.rows.append((
        *lies, episode.length, episode.success, episode.terminal, episode.collector in DEMONSTRATIONS,
        episode.dt, episode.rewards[-1], dense,
        episode.instruction, episode.task, episode.collector, hashlib.sha256(content).digest()[:8],
    ))  # fmt: skip
    if dense:
        part.rewards.append(episode.rewards)

    part.embeddings.setdefault(episode.instruction, episode.embedding)


def _measure(part: _Part, episode: Episode) -> None:
    """Adds the actions and states of an episode as it is stored."""
    for name, values in (("action", episode.actions), ("state", episode.state)):
        values = values.astype(np.float64)
        count, total, squares, low, high = part.moments.get(name, (0, 0.0, 0.0, np.inf, -np.inf))
        part.moments[name] = (count + len(values), total + values.sum(0), squares + np.square(values).sum(0),
                              np.minimum(low, values.min(0)), np.maximum(high, values.max(0)))  # fmt: skip
    part.samples.add(episode.length, {"action": episode.actions, "state": episode.state})


def _merge(
    directory: Stored, parts: list[_Part], encoder: str | None, text_encoder: str, max_skipped: int
) -> Index:
    """Joins what was found in all shards; `encoder` is that of the dataset's own embeddings."""
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
    embeddings = _embeddings(instructions, parts if encoder == text_encoder else [], text_encoder)
    lengths = sorted({len(embedding) for embedding in embeddings})
    if len(lengths) > 1:
        raise UserError(
            f"Text encoder {text_encoder!r} gives vectors of lengths {lengths} for the instructions of "
            f"{directory.path}; expected one length."
        )

    used = [part for part in parts if part.read]
    stride = max(part.samples.stride for part in used)
    samples, statistics = {}, {}
    for name in ("action", "state"):
        rows_of = [part.samples.rows(name)[:: stride // part.samples.stride] for part in used]
        samples[name] = np.concatenate(rows_of)
        statistics[name] = _statistics([part.moments[name] for part in used], samples[name])

    return Index(
        columns=columns,
        instructions=instructions,
        tasks=tasks,
        collectors=collectors,
        embeddings=np.stack(embeddings),
        samples=samples,
        statistics=statistics,
        skipped=dict(collections.Counter(problems)),
        left_out=sum(part.left_out for part in parts),
        fingerprint=hashlib.sha256(b"".join(content)).hexdigest()[:16],
        rewards=np.concatenate([np.zeros(0, np.float32), *(one for part in parts for one in part.rewards)]),
        contents=tuple(part.content for part in parts),
        modified=tuple(shard.modified for shard in directory.shards),
    )


def _embeddings(instructions: Iterable[str], stored_in: list[_Part], text_encoder: str) -> list[np.ndarray]:
    """Returns each instruction's embedding, stored or computed; of several stored ones the first counts."""
    stored: dict[str, np.ndarray] = {}
    for part in stored_in:
        for instruction, embedding in part.embeddings.items():
            if embedding is not None:
                stored.setdefault(instruction, embedding)
    embed = text.embedder(stored, text_encoder)
    return [embed(instruction) for instruction in instructions]


def _numbered(names: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the sorted names without repetition, and the number of each name among them, int32 [n]."""
    unique, inverse = np.unique(np.asarray(names, object), return_inverse=True)
    return tuple(map(str, unique)), inverse.astype(np.int32)


def _statistics(moments: list[tuple], samples: np.ndarray) -> Statistics:
    """Computes statistics; `moments`: count, sums, sums of squares, least and greatest of each shard."""
    count, total, squares = (sum(moment[i] for moment in moments) for i in range(3))
    low, high = np.min([moment[3] for moment in moments], 0), np.max([moment[4] for moment in moments], 0)
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0.0)
    std = np.where(low == high, 0.0, np.sqrt(variance))  # exactly 0 for a constant, in spite of rounding
    q01, q99 = np.quantile(samples, [0.01, 0.99], axis=0) if samples.shape[1] else np.zeros((2, 0))
    return Statistics(*(tuple(np.asarray(x, np.float64).tolist()) for x in (mean, std, q01, q99, low, high)))
