"""A folder of labelled episodes, one file each, which become a dataset when the server ends."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import socket
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.data.recorded import AGE, LabelledEpisode
from qt_jax.errors import UserError
from qt_jax.specs import INTERVENTION, PolicySpec

LOCK = "lock"


class Spool(contextlib.AbstractContextManager):
    """One server's folder of episodes; a context manager that gives the folder up.

    It holds the folder's lock until it is closed or its process ends, in whatever way. Files that a killed
    server had half written are removed at the start.

    Attributes:
        folder: where the files are.
        before: the server before this one, if it was killed; else empty.
        halves: how many half-written files were removed.

    Raises:
        UserError: if the folder cannot be made or locked, or is another server's.

    """

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self._lock, self.before = _locked(folder)
            halves = list(folder.glob("*.partial"))
            for half in halves:
                half.unlink()
        except OSError as error:
            reason = f"cannot be made or locked ({error.strerror})"
            raise UserError(f"{folder} {reason}; give another --record.") from error
        self.halves = len(halves)

    def files(self) -> list[Path]:
        """Returns the episodes' files, in the order in which the episodes ended."""
        return sorted(self.folder.glob("*.npz"))

    def write(self, episode: LabelledEpisode) -> str:
        """Writes an episode's file, whole or not at all; returns the episode's name.

        Raises:
            OSError: if it cannot be written.

        """
        last = max((int(path.stem) for path in self.files() if path.stem.isdecimal()), default=-1)
        path = self.folder / f"{last + 1:06d}.npz"
        arrays: dict[str, Any] = {f"images/{name}": frames for name, frames in episode.images.items()}
        arrays |= {
            field.name: getattr(episode, field.name)
            for field in dataclasses.fields(episode)
            if field.name != "images"
        }
        partial = path.with_suffix(".partial")
        self.folder.mkdir(parents=True, exist_ok=True)  # it may have been deleted meanwhile
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return path.stem

    def check(self, spec: PolicySpec) -> None:
        """Checks that the episodes that are here are whole and have the shapes of this policy.

        Raises:
            UserError: naming an episode that is damaged or of another robot.

        """
        observation = spec.interface.observation
        expected: dict[str, tuple[int, ...]] = {
            "state": (observation.state_dim,),
            "actions": (spec.interface.executed.dims,),
            "shadow": (spec.interface.executed.dims,),
            **{f"images/{camera}": (*observation.image_size, 3) for camera in observation.cameras},
        }
        for path in self.files():
            with _naming(path):
                shapes = _shapes(path)
                rows = {name: shape[1:] for name, shape in shapes.items() if len(shape) > 1}
            if rows != expected:
                difference = f"it has {_listed(rows)}, this one {_listed(expected)}"
                raise UserError(
                    f"{path} is of another policy: {difference}. Give another --record; serve that policy "
                    "with this one to have its episodes written."
                )

    def read(self) -> Iterator[LabelledEpisode]:
        """Yields the episodes in the order in which they ended.

        Raises:
            UserError: naming a file that is damaged.

        """
        for path in self.files():
            with _naming(path):
                episode = _read(path)
            yield episode

    def has_interventions(self) -> bool:
        """Returns whether a person acted at any step of the episodes.

        Raises:
            UserError: naming a file that is damaged.

        """
        return any(steps.any() for steps in self._each(INTERVENTION))

    def has_shadow(self) -> bool:
        """Returns whether a shadow policy said at any step what it would have done.

        Raises:
            UserError: naming a file that is damaged.

        """
        return self._any_finite("shadow")

    def has_ages(self) -> bool:
        """Returns whether a robot told the age of any observation of the episodes.

        Raises:
            UserError: naming a file that is damaged.

        """
        return self._any_finite(AGE)

    def _any_finite(self, name: str) -> bool:
        return any(np.isfinite(values).any() for values in self._each(name))

    def _each(self, name: str) -> Iterator[np.ndarray]:
        """Yields one array of each episode."""
        for path in self.files():
            with _naming(path), np.load(path, allow_pickle=False) as file:
                array = file[name]
            yield array

    def __exit__(self, *_: Any) -> None:
        """Gives the folder up for other servers; removes it if it holds no episode."""
        if not self.files():
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def clear(self) -> None:
        """Deletes the episodes, once the dataset holds them."""
        for path in self.files():
            path.unlink()


def _locked(folder: Path) -> tuple[int, str]:
    """Locks the folder; returns the lock's file descriptor and who left the lock's file behind, or ""."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise UserError(
                f"{folder} is another server's ({owner}); "
                "give this one another --record, and train on both as a mixture."
            ) from None
        if _is_open_as(descriptor, folder / LOCK):
            owner, started = _owner(descriptor), time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(descriptor, 0)
            text = f"process {os.getpid()} on {socket.gethostname()}, started {started}"
            os.pwrite(descriptor, text.encode(), 0)
            return descriptor, owner
        os.close(descriptor)  # its owner ended meanwhile and took the folder away


def _owner(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace")


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns what a damaged file raises into a UserError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Every episode is kept: "
            "move this file away, serve with the same --record, and end it."
        ) from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a file's arrays, without reading the arrays."""
    shapes = {}
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            with file.open(name) as array:
                np.lib.format.read_magic(array)
                shapes[name.removesuffix(".npy")] = np.lib.format.read_array_header_1_0(array)[0]
    return shapes


def _listed(rows: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(rows.items()))


def _read(path: Path) -> LabelledEpisode:
    with np.load(path, allow_pickle=False) as file:
        cameras = [name for name in file.files if name.startswith("images/")]
        return LabelledEpisode(
            instruction=str(file["instruction"]),
            task=str(file["task"]),
            images={name.removeprefix("images/"): file[name] for name in cameras},
            state=file["state"],
            actions=file["actions"],
            intervention=file[INTERVENTION],
            success=bool(file["success"]),
            limited=file["limited"],
            policy=str(file["policy"]),
            shadow=file["shadow"],
            age_ms=file[AGE],
        )
