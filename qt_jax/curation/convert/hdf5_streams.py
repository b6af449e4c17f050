"""Which of an HDF5 episode's datasets are cameras, which are vectors, and which cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from qt_jax.curation.convert import images
from qt_jax.data.images import DEPTH, channels
from qt_jax.errors import UserError

OBSERVATIONS = ("obs", "observations")
_ROUNDING = 1e-3
_LEAST = 8
"""Pixels in each direction; an array with fewer is no image."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """One dataset of the observations.

    Attributes:
        role: "camera"; "vector"; "refused", an image that cannot be used; or "other".
        why: why it is refused or other.
        dims: of a vector.
        scale: factor that brings a camera of floats to 0..255; 0 of other cameras, and of images that are all
            black, which do not say.
    """

    role: str
    why: str = ""
    dims: int = 0
    scale: float = 0.0

    def described(self) -> str:
        """Returns it in words, for messages."""
        return f"a {self.role}" + (f" of {self.dims}" if self.dims else f" ({self.why})" if self.why else "")


def of(group: Any) -> dict[str, Stream]:
    """Returns {path below obs or observations: stream} of an episode's group."""
    return {path: stream(path, item) for path, item in datasets(group).items()}


def datasets(group: Any, folders: tuple[str, ...] = OBSERVATIONS) -> dict[str, Any]:
    """Returns {path: dataset} below `folders`; the paths begin with the folder where there are several."""
    there = [key for key in folders if key in group]
    found = {key: _below(group, key, key) for key in there}
    if len(there) > 1:
        return {path: item for below in found.values() for path, item in below.items()}
    return {path.removeprefix(f"{key}/"): item for key in there for path, item in found[key].items()}


def columns(group: Any) -> dict[str, Any]:
    """Returns {path: dataset} of the datasets that are no observations."""
    found: dict[str, Any] = {}
    for key in group:
        is_group = hasattr(group.get(key), "keys")
        if key not in (*OBSERVATIONS, "next_obs") and not (is_group and key in ("mask", "data")):
            found |= _below(group, key, key)
    return found


def is_number(item: Any) -> bool:
    """Returns whether a dataset has one number a step: [T] or [T, 1]."""
    return bool(item.shape) and item.shape[1:] in ((), (1,)) and item.dtype.kind in "fiub"


def _below(group: Any, key: str, path: str) -> dict[str, Any]:
    """Returns {path: dataset} of the group's `key`: itself, or all below it.

    Links are followed, which h5py's own walk does not do.

    Raises:
        UserError: for a link to what is not there.
    """
    item = group.get(key)
    if item is None:
        raise UserError(
            f"{group.file.filename}: {f'{group.name}/{key}'.strip('/')} is a link to what is not there; copy "
            "what it links to as well."
        )
    if hasattr(item, "shape"):
        return {path: item}
    found: dict[str, Any] = {}
    for name in item if hasattr(item, "keys") else ():
        found |= _below(item, name, f"{path}/{name}")
    return found


def stream(path: str, item: Any) -> Stream:
    """Returns what a dataset is, whose first dim is the steps."""
    if not item.shape:
        return Stream("other", "one value, expected one a step")
    if _is_encoded(item):
        deep = any(map(images.is_deep, _some(item)))
        return Stream("refused", "of more than 8 bits a pixel, as depth has") if deep else Stream("camera")

    shape, kind = tuple(item.shape), item.dtype.kind
    found = f"{item.dtype} {list(shape[1:])} a step"
    pictures = len(shape) in (3, 4) and min(channels(shape[1:])[0]) >= _LEAST
    if DEPTH.search(path) and pictures and channels(shape[1:])[1] != 3:
        return Stream("refused", f"depth, {found}")
    if pictures:
        return _pictures(item, found)

    in_folder = any("image" in part for part in path.split("/")[:-1])
    if len(shape) in (1, 2) and kind in "fiub" and not (in_folder and item.dtype == np.uint8):
        return Stream("vector", dims=int(np.prod(shape[1:])))
    return Stream("refused" if in_folder else "other", f"{found}, neither pixels nor JPEG, PNG or WebP")


def _pictures(item: Any, found: str) -> Stream:
    """Returns what a dataset of unencoded images is; `found` begins the reason of a refusal."""
    _, count, _ = channels(tuple(item.shape[1:]))
    floats = item.dtype.kind == "f"
    if count not in (1, 3, 4):
        return Stream("refused", f"{found}, expected 1, 3 or 4 channels")
    if floats and count == 1:
        return Stream("refused", f"{found}, depth or grey: expected uint8")
    if not floats and item.dtype != np.uint8:
        return Stream("refused", f"{found}, expected uint8 or float")
    return _of_floats(item, found) if floats else Stream("camera")


def _of_floats(item: Any, found: str) -> Stream:
    """Returns what a dataset of float images is: all frames together show whether white is 1 or 255."""
    size = _block(item)
    blocks = (item[first : first + size] for first in range(0, len(item), size))
    ends = np.asarray([(block.min(), block.max()) for block in blocks] or [(0.0, 0.0)], np.float64)
    least, greatest = ends[:, 0].min(), ends[:, 1].max()
    if not (least >= -_ROUNDING and (greatest <= 1.0 + _ROUNDING or 8.0 <= greatest <= 255.0 + _ROUNDING)):
        return Stream("refused", f"{found}, neither from 0 to 1 nor from 0 to 255")
    return Stream("camera", scale=0.0 if greatest == 0.0 else 255.0 if greatest < 8.0 else 1.0)


def _is_encoded(item: Any) -> bool:
    """Returns whether each step holds an image file: bytes of variable length, or padded with zeros."""
    padded = item.ndim == 2 and item.dtype == np.uint8
    if not len(item) or not (padded or (item.ndim == 1 and item.dtype.kind in "OSV")):
        return False
    return any(image.startswith(images.SIGNATURES) for image in _some(item))


def _some(item: Any) -> list[bytes]:
    """Returns a camera's first, middle and last file: some may be damaged."""
    return [file_of(item[step]) for step in sorted({0, len(item) // 2, len(item) - 1})]


def file_of(value: Any) -> bytes:
    """Returns an encoded image without its padding."""
    if isinstance(value, np.ndarray):
        value = value.tobytes()
    elif isinstance(value, str):
        value = value.encode(errors="surrogateescape")
    return bytes(value).rstrip(b"\0")


def _block(item: Any) -> int:
    """Returns how many steps to read at once: a whole chunk, which is compressed as one."""
    return (item.chunks or (32,))[0]


def frames(item: Any, scale: float, start: int = 0) -> Iterator[bytes | np.ndarray]:
    """Yields a camera's frames from step `start` on, for `images.encoded`."""
    encoded, block = _is_encoded(item), _block(item)
    for first in range(start, len(item), block):
        for value in item[first : first + block]:
            yield file_of(value) if encoded else images.rgb(value, scale)
