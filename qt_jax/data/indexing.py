"""Makes the index of a dataset by one pass over its records, or reads it from the cache.

The pass decodes no image, and checks what training relies on. The index is cached under a key of all that
decides it: names and sizes of the dataset's files, the code that reads them, and the settings. If the
modification time of a file changed, its records are read once more but not parsed, and the pass is repeated
only if they changed. What the pass finds in a file is cached by itself: a pass that was killed goes on after
the files that it finished, and where a dataset got more files, these alone are read.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tqdm
from etils import epath

from qt_jax import children, storage, text
from qt_jax.data import code, parts
from qt_jax.data.index import Index, stored_encoder
from qt_jax.data.parts import COLUMNS, NAMES, Part
from qt_jax.data.samples import SAMPLES
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.stored import BadShard, Stored
from qt_jax.errors import UserError
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
    key = _key(directory, spec, step_penalty, text_encoder)
    path, names = _files(directory, storage.directory(cache) / "index", key)
    each = functools.partial(_of_shards, directory, workers)
    cached = _cached(Index, path)

    if cached is not None and _is_current(cached, directory, cache, each):
        index = cached
        problems = [problem for problem, count in index.skipped.items() for _ in range(count)]
        _check_damage(problems, directory, max_skipped)
    else:
        quota = max(1, SAMPLES // len(directory.shards))
        kept = [_kept(name, shard.name, quota) for name, shard in zip(names, directory.shards)]
        missing = [number for number, part in enumerate(kept) if part is None]
        scan = functools.partial(_scan, directory, spec, step_penalty, quota, cache, names)
        scanned = dict(zip(missing, each(scan, missing)))
        found = [scanned[number] if part is None else part for number, part in enumerate(kept)]
        index = _merge(directory, found, stored_encoder(directory, spec), text_encoder, max_skipped)

    times = tuple(shard.modified for shard in directory.shards)
    if index is not cached or index.modified != times:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.replace_bytes(path, dataclasses.replace(index, modified=times).to_bytes())
    return index


def _files(directory: Stored, folder: epath.Path, key: str) -> tuple[epath.Path, list[epath.Path]]:
    """Returns where the index is kept, and what was found in each shard.

    A file of RLDS says in its name how many there are: with one more it is the same file still.
    """

    def name(facts: Any) -> str:
        return f"{hashlib.sha256(repr((key, facts)).encode()).hexdigest()[:32]}.npz"

    whole, each = [], []
    for number, shard in enumerate(directory.shards):
        facts = shard.split, shard.size, shard.examples, directory.listed(number)
        whole.append((shard.name, *facts))
        file = re.sub(r"-of-\d+", "", shard.name)
        each.append(folder / "parts" / name((file, *facts, shard.modified)))
    return folder / name(whole), each


def _cached(kind: Any, path: epath.Path) -> Any:
    """Reads a cached `Index` or `Part`; returns None if there is none, or one that cannot be read."""
    try:
        return kind.from_bytes(path.read_bytes()) if path.exists() else None
    except Exception:  # numpy's and zip's are of many kinds
        return None


def _kept(path: epath.Path, file: str, quota: int) -> Part | None:
    """Reads what was found in a shard, if a pass of now would find the same, or more samples."""
    part = _cached(Part, path)
    if part is None or part.file not in ("", file) or part.samples.stride > part.samples.stride_of(quota):
        return None
    return part


def _scan(
    directory: Stored,
    spec: DatasetSpec,
    step_penalty: float,
    quota: int,
    cache: str,
    paths: Sequence[epath.Path],
    number: int,
) -> Part:
    """Reads all records of the shard of this number, and keeps what it found."""
    part = parts.scan(directory, spec, step_penalty, quota, cache, number)
    with storage.writing(paths[number]):
        paths[number].parent.mkdir(parents=True, exist_ok=True)
    storage.replace_bytes(paths[number], part.to_bytes())
    return part


def _of_shards(directory: Stored, workers: int, function: Callable, shards: Sequence) -> list:
    """Calls `function` for each shard in so many processes; a terminal shows a bar if it takes long."""
    name = f"index of {directory.path}"
    shown = functools.partial(tqdm.tqdm, total=len(shards), desc=name, unit="shard", delay=2, disable=None)
    if workers and len(shards) > 1:
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, spawn, children.end_with_parent) as pool:
            # `function` knows all shards, and is sent anew with each chunk.
            chunk = max(1, len(shards) // (8 * workers))
            return list(shown(pool.map(function, shards, chunksize=chunk)))
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
        for _ in parts.scan_with_digest(directory, cache, number, digest):
            pass
    return digest.hexdigest()


def _key(directory: Stored, spec: DatasetSpec, step_penalty: float, text_encoder: str) -> str:
    """Returns a digest of all that decides an index but its files; bounds, bins and sizes do not."""
    apart = ("path", "standardise", "achieves", "pieces", "action", "observation", "bounds", "image_sizes",
             "notes")  # fmt: skip
    rest = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name not in apart}
    read = (spec.action.dims, spec.observation.cameras, spec.observation.state_dim)
    roots: list[Any] = [spec.standardise, type(directory).parse, parts.scan, _merge]
    if spec.pieces is not None:
        roots.append(spec.pieces)
    if text_encoder != stored_encoder(directory, spec):
        embed = text.find(text_encoder)  # raises before the pass, which may take hours
        roots += [embed] * (":" in text_encoder)
    decisive = (
        directory.layout(),
        sorted(rest.items()),
        read,
        code.digest(*roots),
        step_penalty,
        text_encoder,
    )
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def _check_damage(problems: Sequence[str], directory: Stored, max_skipped: int) -> None:
    if len(problems) > max_skipped:
        raise UserError(
            f"{problems[0]} ({len(problems)} damaged of {sum(s.examples for s in directory.shards)} "
            f"episodes; config.data.max_skipped={max_skipped}). Repair the dataset or raise the cap."
        )


def _merge(
    directory: Stored, found: list[Part], encoder: str | None, text_encoder: str, max_skipped: int
) -> Index:
    """Joins what was found in all shards; `encoder` is that of the dataset's own embeddings."""
    problems = [problem for part in found for problem in part.problems]
    _check_damage(problems, directory, max_skipped)
    columns = {name: np.concatenate([part.columns[name] for part in found]) for name in COLUMNS}
    if not len(columns["place"]):
        raise UserError(
            f"{directory.path} holds no episode that can be used; collect more or correct its DatasetSpec."
        )

    digests = columns.pop("digest")
    counts = [len(part.columns["place"]) for part in found]
    columns["shard"] = np.repeat(np.arange(len(found), dtype=np.int32), counts)
    names = {}
    for name in NAMES:
        names[name], columns[name] = _numbered(found, name)
    instructions = names["instruction"]
    embeddings = _embeddings(instructions, found if encoder == text_encoder else [], text_encoder)
    lengths = sorted({len(embedding) for embedding in embeddings})
    if len(lengths) > 1:
        raise UserError(
            f"Text encoder {text_encoder!r} gives vectors of lengths {lengths} for the instructions of "
            f"{directory.path}; expected one length."
        )

    used = [part for part in found if part.read]
    quota = max(1, SAMPLES // len(found))
    stride = max(part.samples.stride_of(quota) for part in used)
    samples, statistics = {}, {}
    for name in ("action", "state"):
        samples[name] = np.concatenate([part.samples.every(name, stride) for part in used])
        statistics[name] = _statistics([part.moments[name] for part in used], samples[name])

    return Index(
        columns=columns,
        instructions=instructions,
        tasks=names["task"],
        collectors=names["collector"],
        embeddings=np.stack(embeddings),
        samples=samples,
        statistics=statistics,
        skipped=dict(collections.Counter(problems)),
        left_out=sum(part.left_out for part in found),
        fingerprint=hashlib.sha256(digests.tobytes()).hexdigest()[:16],
        rewards=np.concatenate([part.rewards for part in found]),
        contents=tuple(part.content for part in found),
        modified=tuple(shard.modified for shard in directory.shards),
    )


def _embeddings(instructions: Sequence[str], stored_in: list[Part], text_encoder: str) -> list[np.ndarray]:
    """Returns each instruction's embedding, stored or computed; of several stored ones the first counts."""
    stored: dict[str, np.ndarray] = {}
    for part in stored_in:
        for instruction, embedding in part.embeddings.items():
            stored.setdefault(instruction, embedding)
    embed = text.embedder(stored, text_encoder)
    return [embed(instruction) for instruction in instructions]


def _numbered(found: list[Part], name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the sorted texts of a column of all shards, and each episode's number among them, int32 [n]."""
    texts = sorted(set().union(*(part.names[name] for part in found)))
    numbers = {text: number for number, text in enumerate(texts)}
    own = (np.asarray([numbers[text] for text in part.names[name]], np.int32) for part in found)
    return tuple(texts), np.concatenate([own_of[part.columns[name]] for own_of, part in zip(own, found)])


def _statistics(moments: list[dict[str, np.ndarray]], samples: np.ndarray) -> Statistics:
    """Computes statistics of the `parts.MOMENTS` of each shard."""
    count, total, squares = (sum(own[name] for own in moments) for name in ("count", "total", "squares"))
    low, high = np.min([own["low"] for own in moments], 0), np.max([own["high"] for own in moments], 0)
    mean = total / count
    variance = np.maximum(squares / count - np.square(mean), 0.0)
    std = np.where(low == high, 0.0, np.sqrt(variance))  # exactly 0 for a constant, in spite of rounding
    q01, q99 = np.quantile(samples, [0.01, 0.99], axis=0) if samples.shape[1] else np.zeros((2, 0))
    return Statistics(*(tuple(np.asarray(x, np.float64).tolist()) for x in (mean, std, q01, q99, low, high)))
