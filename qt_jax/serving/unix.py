"""A Unix socket to listen on: who may connect, what a dead server left behind, and its removal."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

from qt_jax.errors import UserError

SCHEME = "unix://"
OWNER_ONLY = 0o600
LONGEST = 107
"""Bytes of a path on Linux."""


class UnixSocket(contextlib.AbstractContextManager):
    """The file of a Unix socket; a context manager that removes it at the end.

    Args:
        path: of the file.
        mode: its permissions; whoever may write it may connect.

    """

    def __init__(self, path: str, mode: int = OWNER_ONLY):
        self._path, self._mode = Path(path).absolute(), mode
        self._made: os.stat_result | None = None

    @property
    def url(self) -> str:
        """The URL that a client takes: unix:///PATH."""
        return f"{SCHEME}{self._path}"

    def check(self) -> None:
        """Checks that nothing else is there, before minutes of compilation. What a dead server left may be.

        Raises:
            UserError: if the file is a live server's, or no socket, or the folder is missing.

        """
        if (size := len(os.fsencode(self._path))) > LONGEST:
            raise self._cannot(
                f"its path has {size} bytes, expected at most {LONGEST}", "choose a shorter one"
            )
        if not self._path.parent.is_dir():
            raise self._cannot("its folder is missing", "make it")
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot(str(error.strerror), "choose another path") from error
        if not stat.S_ISSOCK(found.st_mode):
            raise self._cannot("a file that is no socket is there", "move it away")
        if self._is_answered():
            raise self._cannot("another server listens there", "end it, or choose another path")

    def bind(self) -> socket.socket:
        """Returns the bound socket, on which nobody listens yet; replaces what a dead server left.

        Raises:
            UserError: as `check`, and if the file cannot be made.

        """
        self.check()
        own = socket.socket(socket.AF_UNIX)
        try:
            self._path.unlink(missing_ok=True)
            own.bind(str(self._path))
            self._path.chmod(self._mode)  # nobody can connect before the server listens
            self._made = self._path.lstat()
        except OSError as error:
            own.close()
            raise self._cannot(error.strerror or str(error), "choose another path") from error
        return own

    def _is_answered(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            try:
                client.connect(str(self._path))
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:  # it may not be connected to, or is too busy: somebody's all the same
                return True
        return True

    def _cannot(self, reason: str, remedy: str) -> UserError:
        return UserError(f"--socket={self._path} cannot be listened on ({reason}); {remedy}.")

    def __exit__(self, *_: Any) -> None:
        """Removes the file, unless it is another server's by now."""
        with contextlib.suppress(OSError):
            if self._made is not None and os.path.samestat(self._made, self._path.lstat()):
                self._path.unlink()
