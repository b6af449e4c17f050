"""The one error a person at the keyboard or at the robot is meant to read, and the exit statuses a scheduler
is meant to act on.
"""

from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Bad input: the message is one line that names the value, what was expected and the remedy.

    Doors (`qt_jax/cli`) print it without a traceback and exit with status 2.
    """


def require_one_of(name: str, value: Any, known: Iterable[Any]) -> None:
    """Raises a UserError that lists what is known where a setting's value is none of it."""
    if value not in (known := tuple(known)):
        raise UserError(f"{name} is {value!r}; expected one of {known}.")


EXIT_VIOLATIONS = 1
"""`validate` found violations, as linters have it."""
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
"""SIGTERM came and the run was saved, or had no step to save: start the same command again (sysexits'
EX_TEMPFAIL)."""
EXIT_HUNG = 76
"""No step ended within config.train.step_timeout_s: start the same command again, on other machines if it
happens twice.
"""
EXIT_PEER_LOST = 77
"""Another process of the run died, hangs or stopped: start all again."""

EXIT_INTERRUPTED = 130
"""Ctrl-C, as shells count it."""
EXIT_UNREAD = 141
"""The output went to a pipe that nobody reads any more (SIGPIPE, as shells count it)."""


class Preempted(Exception):
    """The run was told to stop by SIGTERM or Ctrl-C, and saved. Doors print it and exit with `status`."""

    def __init__(self, message: str, status: int = EXIT_PREEMPTED):
        super().__init__(message)
        self.status = status
