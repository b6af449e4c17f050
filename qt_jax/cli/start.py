"""Runs a command: its flags and its config file, and a UserError as one line."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from qt_jax.cli.commands import COMMANDS, usage
from qt_jax.cli.settings import problem
from qt_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR, Preempted, UserError
from qt_jax.signals import Listener


def run(door: str) -> None:
    """Parses the rest of the command line and runs the command."""
    opened, config = COMMANDS[door], None
    if opened.config != "none":
        config = config_flags.DEFINE_config_file(
            "config", None, "A file with get_config().", lock_config=True
        )
    if opened.flags:
        importlib.import_module(f"qt_jax.cli.{door}").define_flags()

    def main(argv: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # libraries' progress is not a person's
        try:
            if len(argv) > 1:
                raise UserError(
                    f"Unexpected argument {argv[1]!r}; settings are given as --{'' if config is None else 'config.'}KEY=VALUE."
                )
            if config is not None and config.value is None and opened.config == "needed":
                raise UserError(
                    "--config is missing; give a file such as --config=experiments/quickstart.py."
                )
            importlib.import_module(f"qt_jax.cli.{door}").main(*([] if config is None else [config.value]))
        except UserError as error:
            print(f"qt_jax {door}: {error}", file=sys.stderr)
            raise SystemExit(EXIT_USER_ERROR) from None
        except Preempted as notice:
            print(f"qt_jax {door}: {notice}", file=sys.stderr)
            raise SystemExit(notice.status) from None
        except KeyboardInterrupt:
            _leave(door, "interrupted", EXIT_INTERRUPTED)

    leave = {signal.SIGINT: functools.partial(_leave, door, "interrupted", EXIT_INTERRUPTED)}
    if door == "train":  # until it has a step to save
        told = "told to stop outside of the steps; the same command starts again or goes on"
        leave[signal.SIGTERM] = functools.partial(_leave, door, told, EXIT_PREEMPTED)
    if door == "serve":  # until it serves
        signal.signal(signal.SIGINT, lambda *_: leave[signal.SIGINT]())
    elif door != "collect":  # which has workers and a half-written dataset to clean up, by the exception
        Listener(leave).__enter__()
    app.run(main, flags_parser=lambda argv: _parse(door, config, argv))


def _leave(door: str, why: str, status: int) -> NoReturn:
    """Ends at a signal: an exception may be lost in a callback of JAX, and a compilation under way would
    crash Python's own end.
    """
    print(f"qt_jax {door}: {why}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _parse(door: str, config: Any, argv: list[str]) -> list[str]:
    """Flags and config file, or one line; `--help` lists every setting of the config that was given."""
    wants_help = {"-h", "--help"} & set(argv)
    try:
        rest = flags.FLAGS([argument for argument in argv if argument not in ("-h", "--help")])
        settings = (
            {} if config is None else dict(config.value or {})
        )  # a file that cannot be read raises here
    except Exception as error:  # whatever a config file or a value raised
        if isinstance(error, ModuleNotFoundError) and _asked_by_us(error):
            raise
        text = problem(error, argv)
        with_config = "" if config is None else " --config=FILE"
        print(
            f"qt_jax {door}: {text} (`python -m qt_jax {door}{with_config} --help` lists the settings)",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_USER_ERROR) from None
    if wants_help:
        print(f"{COMMANDS[door].does}\n\n{usage()}")
        if COMMANDS[door].flags:
            print(flags.FLAGS.module_help(f"qt_jax.cli.{door}"))
        if settings:
            print(importlib.import_module("qt_jax.cli.help").of(config.value))
        raise SystemExit(0)
    return rest


def _asked_by_us(error: ModuleNotFoundError) -> bool:
    """Whether a file of qt_jax, and not the user's config, imports what is missing."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    asking = [file for file in frames if not file.startswith("<frozen")]
    return Path(asking[-1]).is_relative_to(Path(__file__).parents[1])
