"""Computes what a frozen image encoder makes of every frame, once, and keeps it on disk (data/features.py).

A file of `config.data.cache`/features has a digest for its name, of all that decides it: the encoder's code,
settings and parameters, the camera, the size of the images, the shard's records and what is read of them. So
a pass that was killed goes on after the shards that it finished, and new shards alone are computed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import math
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qt_jax import storage
from qt_jax.data import code, features
from qt_jax.data import index as indices
from qt_jax.data.features import Features
from qt_jax.data.images import fill
from qt_jax.data.loader import Recipe
from qt_jax.data.mixture import Source
from qt_jax.data.video import BadImage
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.images import EncoderAlone, encoder
from qt_jax.models.network import parameter_path
from qt_jax.segment import FEATURES

FRAMES = 64
"""That the encoder sees at a time, on each device."""
DECODED = 16
"""Frames that a thread decodes at a time."""
ABANDONED_S = 24 * 3600.0
"""Seconds after which an unfinished file is nobody's (default of this project)."""
_UNFINISHED = ".new"


@dataclasses.dataclass(frozen=True)
class _File:
    """The features of a camera in a shard of a dataset."""

    source: Source
    places: np.ndarray
    """As `features.places` gives them."""
    episodes: np.ndarray
    """Those of the index that lie in the shard."""
    camera: str
    path: Path

    @property
    def frames(self) -> int:
        """How many frames it has room for."""
        return int((self.source.index.columns["length"][self.episodes].astype(np.int64) + 1).sum())


def add(config: Any, recipe: Recipe, ensemble: Ensemble, arrays: dict[str, np.ndarray]) -> Recipe:
    """Returns the recipe with features in place of images; computes those that are not on disk yet.

    Each process computes what its disk lacks. Where they share one, each begins at another shard and skips
    what others have finished.

    Args:
        config: the experiment's.
        recipe: what the segments hold.
        ensemble: the networks, whose frozen encoders are all the same.
        arrays: {path: array} of one network's encoders.

    Raises:
        UserError: if the disk has no room, the cache is a bucket, or features do not fit float16.

    """
    if "://" in config.data.cache:
        raise UserError(
            f"config.data.cache is {config.data.cache}; features are kept on a local disk: give a directory, "
            "or set config.data.cache_features to False."
        )
    alone = EncoderAlone(config.model, ensemble.interface.instruction_dim)
    folder = Path(str(storage.directory(config.data.cache))) / "features"
    mixture, keys, eyes = recipe.mixture, {}, {}
    for camera in mixture.interface.observation.cameras:
        eyes[camera] = _parameters(alone, arrays, camera)
        keys[camera] = _key_of_encoder(config.model, eyes[camera], mixture)

    files = [_files(source, keys, folder) for source in mixture.sources]
    every = [file for own in files for shards in own.values() for file in shards if file.frames]
    _check_room(folder, every, alone.shape)
    _write(every, alone, eyes, recipe, max(1, config.data.read_threads))
    paths = ({camera: [str(file.path) for file in of] for camera, of in own.items()} for own in files)
    places = tuple(features.places(source.index) for source in mixture.sources)
    return dataclasses.replace(recipe, features=Features(alone.shape, tuple(paths), places))


def _parameters(alone: EncoderAlone, arrays: dict[str, np.ndarray], camera: str) -> dict:
    """Returns the parameters of a camera's encoder as the encoder takes them."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: np.asarray(arrays[f"cameras/{camera}/encoder/{parameter_path(path)}"], x.dtype),
        alone.params,
    )


def _key_of_encoder(model: Any, eye: dict, mixture: Any) -> str:
    """Returns a digest of what turns an image into features; an encoder of one's own may read any setting."""
    names = sorted(model) if ":" in model.encoder else ("image_size", "dtype", "patch_stages")
    settings = [(name, model[name]) for name in names], mixture.interface.observation.image_size
    digest = hashlib.sha256(repr((settings, code.digest(encoder(model.encoder)))).encode())
    for leaf in jax.tree.leaves(eye):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _files(source: Source, keys: dict[str, str], folder: Path) -> dict[str, list[_File]]:
    """Returns {camera: a file each shard}, named by all that decides it; `keys` are those of the encoders."""
    index, spec, places = source.index, source.spec, features.places(source.index)
    reads = code.digest(*(function for function in (spec.standardise, spec.pieces) if function is not None))
    found: dict[str, list[_File]] = {camera: [] for camera in spec.observation.cameras}
    for shard, contents in enumerate(index.contents):
        own = np.flatnonzero(index.columns["shard"] == shard)
        episodes = [index.columns[name][own].tobytes() for name in ("place", "piece", "length")]
        for camera, files in found.items():
            parts = contents, episodes, reads, camera, keys[camera]
            name = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
            files.append(_File(source, places, own, camera, folder / f"{name}.npy"))
    return found


def _check_room(folder: Path, files: Sequence[_File], shape: tuple[int, ...]) -> None:
    with storage.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    frame = math.prod(shape) * np.dtype(FEATURES).itemsize
    needed = sum(file.frames * frame for file in files if not file.path.exists())
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"The features need {needed / 2**30:.1f} GiB in {folder}, which has {free / 2**30:.1f} GiB left; "
            "give another config.data.cache, a smaller config.model.image_size, or set "
            "config.data.cache_features to False.",
            topic="disk-full",
        )


def _write(
    files: Sequence[_File], alone: EncoderAlone, eyes: dict[str, dict], recipe: Recipe, threads: int
) -> None:
    """Computes and writes the files that are missing, on all devices of this process."""
    _remove_abandoned(files)
    mesh = Mesh(np.asarray(jax.local_devices()), ("rows",))
    rows, everywhere = NamedSharding(mesh, PartitionSpec("rows")), NamedSharding(mesh, PartitionSpec())
    program = jax.jit(alone, out_shardings=rows)
    placed = jax.device_put(eyes, everywhere)
    size = recipe.mixture.interface.observation.image_size
    images = np.zeros((FRAMES * mesh.size, *size, 3), np.uint8)

    begun, computed = time.monotonic(), 0
    first = len(files) * jax.process_index() // jax.process_count()
    shown = tqdm.tqdm([*files[first:], *files[:first]], "features", unit="shard", delay=2, disable=None)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for file in shown:
            if file.path.exists():
                continue
            with _writing(file, alone.shape) as out:
                for part in _batches(file, recipe, len(images)):
                    places, encoded = zip(*part)
                    ends = list(itertools.accumulate(map(len, encoded)))
                    own = [images[end - len(frames) : end] for end, frames in zip(ends, encoded)]
                    sound = np.concatenate(list(pool.map(_decode, own, encoded)))
                    found = program(placed[file.camera], jax.device_put(images, rows))
                    with np.errstate(over="ignore"):  # `_check_finite` says so
                        found = np.asarray(found)[: ends[-1]].astype(FEATURES)
                    _check_finite(found[sound], file)
                    found[~sound] = features.missing(alone.shape)
                    for place, end, frames in zip(places, ends, encoded):
                        out[place : place + len(frames)] = found[end - len(frames) : end]
                    computed += ends[-1]

    if jax.process_index() == 0:
        size_mib = sum(file.path.stat().st_size for file in files) / 2**20
        told = f"{computed} frames encoded in {time.monotonic() - begun:.1f} s; " if computed else ""
        place = files[0].path.parent if files else ""
        print(f"features of frames: {told}{size_mib:,.1f} MiB in {place}", flush=True)


def _remove_abandoned(files: Sequence[_File]) -> None:
    """Removes what passes that were killed left, but not what another run may be writing now."""
    for folder in {file.path.parent for file in files}:
        for path in folder.glob(f"*{_UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_S:
                    path.unlink()


@contextlib.contextmanager
def _writing(file: _File, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields the array of a file, which has its name once all is written."""
    new = file.path.with_name(f"{file.path.name}.{uuid.uuid4().hex}{_UNFINISHED}")
    with storage.writing(storage.directory(str(file.path))):
        try:
            out = np.lib.format.open_memmap(new, "w+", FEATURES, (file.frames, *shape))
            yield out
            out.flush()
            new.replace(file.path)
        finally:
            new.unlink(missing_ok=True)


def _batches(file: _File, recipe: Recipe, size: int) -> Iterator[list[tuple[int, Sequence[Any]]]]:
    """Reads a file's recorded images in batches of so many: (place of the first, a few images)."""
    source, batch, room = file.source, [], size
    for number in file.episodes.tolist():
        episode = indices.read(
            source.directory, source.index, source.spec, number, recipe.step_penalty, recipe.cache
        )
        frames, place = episode.images[file.camera], int(file.places[number])
        while len(frames):
            count = min(len(frames), room, DECODED)
            batch.append((place, frames[:count]))
            frames, place, room = frames[count:], place + count, room - count
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


def _check_finite(found: np.ndarray, file: _File) -> None:
    if not np.isfinite(found).all():
        raise UserError(
            f"{file.source.name}: features of camera {file.camera!r} are not finite in float16; let the "
            "encoder give smaller ones, or set config.data.cache_features to False."
        )


def _decode(out: np.ndarray, frames: Sequence[Any]) -> np.ndarray:
    """Decodes recorded images into `out`; returns which of them could be, bool [n].

    The segment that is drawn with one that could not says where it is.
    """
    sound, start = np.ones(len(frames), bool), 0
    while start < len(frames):
        try:
            fill(out[start:], frames[start:])
            break
        except BadImage as bad:
            sound[start + bad.place] = False
            start += bad.place + 1
    return sound
