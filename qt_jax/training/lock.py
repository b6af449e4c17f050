"""A lock on a run's directory: one training at a time.

A second one would, as it cleans up, delete the checkpoint that the first is writing.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import platform
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import jax
from etils import epath

from qt_jax import storage
from qt_jax.errors import UserError

NAME = "train.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_BEAT_S = 5.0
_SILENT_S = 6 * _BEAT_S
"""A lease that was not renewed for so long has a dead holder."""


def take(workdir: str, wait_s: float) -> FileLock | Lease | NoLock:
    """Locks a run's directory, until the lock is closed or this process ends.

    Only the first process of a run locks. On a disk it is a lock of the operating system, which ends with the
    process. A bucket or file system without such locks has a lease instead: an object that its holder renews.

    Raises:
        UserError: if another training has the directory and does not end within `wait_s` (it names the
            process, its host and since when), or if the directory cannot be written.

    """
    if jax.process_index():
        return NoLock()
    folder = storage.directory(workdir)
    with storage.writing(folder / NAME):
        folder.mkdir(parents=True, exist_ok=True)
        if "://" not in str(folder):
            try:
                return FileLock(folder, wait_s)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        return Lease(folder, wait_s)


class NoLock:
    """The lock of a process whose run is locked by another process."""

    def check(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class FileLock:
    """A lock of the operating system (flock) on `train.lock`, in which stands who has it."""

    def __init__(self, folder: epath.Path, wait_s: float):
        self._path, waiting = Path(folder) / NAME, _Waiting(folder, wait_s)
        while (file := self._locked()) is None:
            waiting.for_another(_read(folder / NAME))
        self._file, self._folder = file, _identity(self._path.parent)

    def _locked(self) -> int | None:
        """Returns the open file, with our name in it; None if another process has it."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(self._path) == _identity(file):
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(_me()).encode(), 0)
                return file
        except BlockingIOError:
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)
        return None

    def check(self) -> None:
        """Checks that this run still has its directory; to be called before it is written.

        Makes the lock's file again if it was deleted.

        Raises:
            UserError: if the directory is gone or replaced, or another training has it.

        """
        if _identity(self._path) == _identity(self._file):
            return
        file = None
        if _identity(self._path.parent) == self._folder:
            with storage.writing(self._path):
                file = self._locked()
        if file is None:
            raise UserError(_gone(self._path.parent))
        os.close(self._file)
        self._file = file

    def close(self) -> None:
        """Releases the lock."""
        os.close(self._file)


class Lease:
    """The object `train.lock`, which its holder writes again every few seconds."""

    def __init__(self, folder: epath.Path, wait_s: float):
        self._folder, self._path, self._me = folder, folder / NAME, _me()
        self._beat, self._lost, self._closing = 0, False, threading.Event()
        waiting = _Waiting(folder, wait_s)
        while True:
            self._wait_for_others(waiting)
            self._write()
            time.sleep(_BEAT_S / 10)  # another may have found it free too: the last to write has it
            if self._mine():
                break
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _wait_for_others(self, waiting: _Waiting) -> None:
        """Returns once nobody has the lease: it is gone, its process died on this machine, or is silent."""
        seen, since = _read(self._path), time.monotonic()
        while seen and not _died_here(seen) and time.monotonic() - since < _SILENT_S:
            time.sleep(_BEAT_S / 10)
            now = _read(self._path)
            if now and now != seen:
                waiting.for_another(now)
                since = time.monotonic()
            seen = now

    def _write(self) -> None:
        self._beat += 1
        storage.replace_text(self._path, json.dumps(self._me | {"beat": self._beat}))

    def _mine(self) -> bool:
        return _read(self._path).get("id") == self._me["id"]

    def _renew(self) -> None:
        while not self._closing.wait(_BEAT_S) and not self._lost:
            with contextlib.suppress(Exception):  # whatever a store raises that is away for a while
                if self._mine():
                    self._write()
                else:
                    self._lost = True

    def check(self) -> None:
        """Checks that this run still has its directory; to be called before it is written.

        Raises:
            UserError: if the lease is deleted, or another training has it.

        """
        if self._lost:
            raise UserError(_gone(self._folder))

    def close(self) -> None:
        """Gives the lease up."""
        self._closing.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            if self._mine():
                self._path.unlink()


class _Waiting:
    """Waits for the end of another training, and says so once."""

    def __init__(self, folder: Any, wait_s: float):
        self._folder, self._wait_s, self._announced = folder, wait_s, False
        self._deadline = time.monotonic() + wait_s

    def for_another(self, holder: dict[str, Any]) -> None:
        """Waits a moment; raises a UserError that names the holder once the time is up."""
        who = (
            f"process {holder['pid']} on {holder['host']} has it since {holder['since']}"
            if "pid" in holder
            else "another process has it"
        )
        what = f"{self._folder} is in use by another training: {who}"
        if time.monotonic() >= self._deadline:
            raise UserError(
                f"{what}; end that one (SIGTERM has it save and leave), or take another config.workdir."
            )
        if not self._announced:
            waiting = f"waiting up to config.train.lock_wait_s={self._wait_s:g} s for its end"
            print(f"{what}; {waiting}", file=sys.stderr, flush=True)
            self._announced = True
        time.sleep(0.2)


def _identity(file: Path | int) -> tuple[int, int] | None:
    """Returns the device and inode of a path or an open file; None where there is no file."""
    try:
        found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _gone(folder: Any) -> str:
    return (
        f"{folder} was deleted, moved or taken by another training while this one ran, which ends: what it "
        "had since its last checkpoint is lost; start it again, in another config.workdir if that one is in "
        "use."
    )


def _me() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "since": now,
        "id": uuid.uuid4().hex,
        "machine": _machine(),
    }


def _machine() -> str:
    """Names this boot and container, within which a process ID means one process; "" without /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _died_here(holder: dict[str, Any]) -> bool:
    here = _machine()
    same_machine = bool(here) and holder.get("machine") == here
    return same_machine and not Path(f"/proc/{holder.get('pid')}").exists()


def _read(path: epath.Path) -> dict[str, Any]:
    """Reads who has the lock; {} if nobody, or it was not written whole."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
