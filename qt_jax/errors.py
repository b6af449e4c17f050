"""The error that a person is meant to read, and the exit statuses that a scheduler is meant to act on."""

from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Bad input: the message is one line that names the value, what was expected and the remedy.

    Commands (`qt_jax/cli`) print it without a traceback, with the section of troubleshooting.md that says
    more, and exit with status 2.

    Args:
        message: the line.
        topic: the heading of that section; "": that of the file which raises it (`qt_jax/cli/explain.py`).

    """

    def __init__(self, message: str, topic: str = ""):
        super().__init__(message)
        self.topic = topic


def require_one_of(name: str, value: Any, known: Iterable[Any]) -> None:
    """Raises a UserError that lists the known values if `value` is none of them."""
    if value not in (known := tuple(known)):
        raise UserError(f"{name} is {value!r}; expected one of {known}.", topic="settings")


def require_format(what: str, found: object, own: int, again: str) -> None:
    """Raises a UserError that names both formats if another version wrote something.

    Args:
        what: was written, such as "runs/mine/policy is a policy".
        found: its format; what is no whole number is from before formats had one.
        own: the format that this version reads.
        again: the remedy for an older one.

    """
    if found != own:
        newer = isinstance(found, int) and found > own
        remedy = "install the version that wrote it, or a later one" if newer else again
        version = f"{'a newer' if newer else 'another'} version of qt_jax"
        raise UserError(
            f"{what} of {version} (schema {found!r}, this version reads {own}); {remedy}.",
            topic="other-version",
        )


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or the name of its class, in at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


EXIT_VIOLATIONS = 1
"""`validate` found violations; linters use this status too."""
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 75
"""SIGTERM came; the run was saved, or had no step to save. Start the same command again (EX_TEMPFAIL)."""
EXIT_HUNG = 76
"""No step ended within config.train.step_timeout_s.

Start the same command again, on other machines if it happens twice.
"""
EXIT_PEER_LOST = 77
"""Another process of the run died, hangs or stopped: start all again."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, with the status that shells give it."""
EXIT_UNREAD = 141
"""Nobody reads the output's pipe any more (SIGPIPE, with the status that shells give it)."""


class Preempted(Exception):
    """SIGTERM or Ctrl-C stopped the run, which was saved. Commands print it and exit with `status`."""

    def __init__(self, message: str, status: int = EXIT_PREEMPTED):
        super().__init__(message)
        self.status = status
