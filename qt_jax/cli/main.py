"""The console entry: runs a command, or says which there are or what is not installed.

The base install has it too.
"""

from __future__ import annotations

import importlib
import os
import sys

from qt_jax.cli import explain
from qt_jax.cli.commands import COMMANDS, usage
from qt_jax.errors import EXIT_UNREAD, EXIT_USER_ERROR


def run() -> None:
    """Runs the command that the command line names."""
    try:
        _run()
    except BrokenPipeError:  # `... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        raise SystemExit(EXIT_UNREAD) from None


def _run() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage(), flush=True)
        raise SystemExit(0 if len(sys.argv) > 1 else EXIT_USER_ERROR)
    name = sys.argv.pop(1)
    if name == "explain":
        return explain.main(sys.argv[1:])
    if name not in COMMANDS:
        known = ", ".join([*COMMANDS, "explain"])
        print(f"qt_jax: unknown command {name!r}; expected one of {known}.", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)

    try:
        importlib.import_module("qt_jax.cli.start").run(name)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).partition(".")[0]
        if package == "qt_jax":
            raise  # a fault of ours
        remedy = COMMANDS[name].remedy(package)
        print(f"qt_jax {name}: the package {package} is not installed; {remedy}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
