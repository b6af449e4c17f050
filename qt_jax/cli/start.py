"""Runs a command: its flags and its config file, and a UserError as one line."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from qt_jax.cli import explain
from qt_jax.cli.commands import COMMANDS, usage
from qt_jax.cli.settings import problem, set_none, without_none
from qt_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR, Preempted, UserError
from qt_jax.signals import Listener


def run(name: str) -> None:
    """Parses the rest of the command line and runs the command of this name."""
    gc.set_threshold(50_000)  # tracing makes many objects and no circles: a tenth of a short run
    command, config = COMMANDS[name], None
    if command.config != "none":
        config = config_flags.DEFINE_config_file(
            "config", None, "A file with get_config().", lock_config=True
        )
    if command.flags:
        importlib.import_module(f"qt_jax.cli.{name}").define_flags()

    def main(argv: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # the log of libraries is not for users
        try:
            _check(name, config, argv)
            importlib.import_module(f"qt_jax.cli.{name}").main(*([] if config is None else [config.value]))
        except UserError as error:
            print(f"qt_jax {name}: {explain.line(error)}", file=sys.stderr)
            raise SystemExit(EXIT_USER_ERROR) from None
        except Preempted as notice:
            print(f"qt_jax {name}: {notice}", file=sys.stderr)
            raise SystemExit(notice.status) from None
        except KeyboardInterrupt:
            _leave(name, "interrupted", EXIT_INTERRUPTED)

    _listen(name)
    app.run(main, flags_parser=lambda argv: _parse(name, config, argv))


def _check(name: str, config: Any, argv: list[str]) -> None:
    """Raises a UserError for an argument that is no flag, or a config that is missing."""
    if len(argv) > 1:
        setting = "--KEY=VALUE" if config is None else "--config.KEY=VALUE"
        raise UserError(f"Unexpected argument {argv[1]!r}; settings are given as {setting}.")
    if config is not None and config.value is None and COMMANDS[name].config == "needed":
        raise UserError("--config is missing; give a file such as --config=experiments/quickstart.py.")


def _listen(name: str) -> None:
    """Ends the command at a signal, for as long as it does not handle the signal itself."""
    interrupted = functools.partial(_leave, name, "interrupted", EXIT_INTERRUPTED)
    calls: dict[int, Callable[[], None]] = {signal.SIGINT: interrupted}
    if name in ("train", "improve"):  # until it has a step to save
        why = "told to stop outside of the steps; the same command starts again or goes on"
        calls[signal.SIGTERM] = functools.partial(_leave, name, why, EXIT_PREEMPTED)
    if name == "serve":  # until it serves
        signal.signal(signal.SIGINT, lambda *_: interrupted())
    elif name != "collect":  # at the exception it ends its workers and removes the unfinished dataset
        Listener(calls).__enter__()


def _leave(name: str, why: str, status: int) -> NoReturn:
    """Prints why, and ends the process at once.

    An exception could be lost in a callback of JAX, and Python's own end crashes during a compilation.
    """
    print(f"qt_jax {name}: {why}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _parse(name: str, config: Any, argv: list[str]) -> list[str]:
    """Parses flags and config file; `--help` lists every setting of the config that was given.

    Ends the process with one line if they cannot be parsed.
    """
    wants_help = {"-h", "--help"} & set(argv)
    try:
        given = [argument for argument in argv if argument not in ("-h", "--help")]
        unset: list[str] = []
        if config is not None:
            given, unset = without_none(given)
        rest = flags.FLAGS(given)
        # A file that cannot be read raises here.
        settings = {} if config is None else dict(config.value or {})
        if settings:
            set_none(config.value, unset)
    except Exception as error:  # whatever a config file or a value raised
        if isinstance(error, ModuleNotFoundError) and _imported_by_us(error):
            raise
        text = problem(error, argv)
        usage_of = f"python -m qt_jax {name}{'' if config is None else ' --config=FILE'} --help"
        print(f"qt_jax {name}: {text} (`{usage_of}` lists the settings)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None

    if wants_help:
        print(f"{COMMANDS[name].does}\n\n{usage()}")
        if COMMANDS[name].flags:
            print(flags.FLAGS.module_help(f"qt_jax.cli.{name}"))
        if settings:
            print(importlib.import_module("qt_jax.cli.help").of(config.value))
        raise SystemExit(0)
    return rest


def _imported_by_us(error: ModuleNotFoundError) -> bool:
    """Returns whether a file of qt_jax, and not the user's config, imports what is missing."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [file for file in frames if not file.startswith("<frozen")]
    return Path(files[-1]).is_relative_to(Path(__file__).parents[1])
