"""Files and folders that are read again when they change, while the server serves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from qt_jax.serving.threads import in_thread

EVERY_S = 1.0
"""Seconds between two looks."""

Done = Callable[[str, Exception | None], None]
"""Is told what was read again, and the error with which it was not."""

_READING = "reading again"

_Signature = tuple[tuple[str, int, int, int], ...]


class Watched:
    """What is read again when it changes, also through a link that points elsewhere.

    Make it before the first reading, so that no change is missed.

    Args:
        what: its name in log and metrics.
        paths: files, or folders with all that is in them.
        read: reads them anew, on a thread of its own. What it raises is handed on, and it is tried again with
            the next change.

    """

    def __init__(self, what: str, paths: list[str], read: Callable[[], None]):
        self._what, self._paths, self._read = what, [Path(path) for path in paths], read
        self._seen = self._signature()

    async def watch(self, done: Done) -> None:
        """Looks every second, until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            if (found := self._signature()) == self._seen:
                continue
            self._seen = found
            try:
                # A thread that keeps no program from ending: a policy takes minutes to load.
                reading = in_thread(self._read, name=f"{_READING} {self._what}")
                await asyncio.shield(asyncio.wrap_future(reading))
            except Exception as error:  # also of what a policy raises that does not fit into memory
                done(self._what, error)
            else:
                done(self._what, None)

    def _signature(self) -> _Signature:
        """Returns name, inode, time and size of each file; a file that is missing has none."""
        found = []
        for path in self._paths:
            with contextlib.suppress(OSError):
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    stat = file.stat()
                    found.append((str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(found)


def under_way() -> bool:
    """Returns whether something is being read again in this process."""
    return any(thread.name.startswith(_READING) for thread in threading.enumerate())
