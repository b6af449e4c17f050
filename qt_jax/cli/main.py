"""Finds the door and turns a UserError into one line."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from qt_jax.cli.settings import problem
from qt_jax.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_USER_ERROR, Preempted, UserError
from qt_jax.signals import Listener

DOORS = {
    "collect": "collect a dataset in the simulator with scripted experts and realistic failures",
    "convert": "LeRobot or HDF5 episodes as a dataset; no --config",
    "repack": "a dataset's TFRecord files as ArrayRecord, for a global shuffle; no --config",
    "inspect": "what is in a config's datasets: tables, and a page with contact sheets; --data=PATH needs no --config",
    "validate": "every violation of RLDS' conventions, by episode and step; --data=PATH needs no --config",
    "train": "train on a dataset; continues from the latest checkpoint in config.workdir",
    "plan": "compile a config's train step for devices that need not be here: memory, FLOPs, communication",
    "evaluate": "roll a trained policy out, with videos and an HTML report",
    "affordances": "a trained policy's values of instructions against what comes of them, as precision, recall and F1",
    "export": "a checkpoint as a policy artefact: what a robot loads",
    "onnx": "adds ONNX programs to a policy artefact, for robots without jax; no --config",
    "serve": "a policy artefact over a websocket, for robots (openpi-client) and people (a page); no --config",
}

_OWN_FLAGS = ("convert", "repack", "inspect", "validate", "plan", "evaluate", "export", "onnx", "serve")
_WITHOUT_CONFIG = ("convert", "repack", "onnx", "serve")
_CONFIG_OPTIONAL = ("inspect", "validate")

_USAGE = (
    "usage: python -m qt_jax DOOR --config=experiments/FILE.py [--config.KEY=VALUE ...]\n\ndoors:\n"
    + "\n".join(f"  {name:13}{text}" for name, text in DOORS.items())
    + "\n\n`python -m qt_jax DOOR --config=FILE --help` lists every setting with its default."
)


def run() -> None:
    """The console entry."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(_USAGE)
        raise SystemExit(0 if len(sys.argv) > 1 else EXIT_USER_ERROR)
    door = sys.argv.pop(1)
    if door not in DOORS:
        print(f"qt_jax: unknown door {door!r}; expected one of {', '.join(DOORS)}.", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)
    config = None
    if door not in _WITHOUT_CONFIG:
        config = config_flags.DEFINE_config_file("config", None, "A file with get_config().", lock_config=True)
    if door in _OWN_FLAGS:
        importlib.import_module(f"qt_jax.cli.{door}").define_flags()

    def main(argv: list[str]) -> None:
        logging.set_verbosity(logging.ERROR)  # libraries' progress is not a person's
        try:
            if len(argv) > 1:
                raise UserError(f"Unexpected argument {argv[1]!r}; settings are given as --{'' if config is None else 'config.'}KEY=VALUE.")
            if config is not None and config.value is None and door not in _CONFIG_OPTIONAL:
                raise UserError("--config is missing; give a file such as --config=experiments/quickstart.py.")
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
        told = "told to stop before the first step; the same command starts again"
        leave[signal.SIGTERM] = functools.partial(_leave, door, told, EXIT_PREEMPTED)
    if door == "serve":  # until it serves
        signal.signal(signal.SIGINT, lambda *_: leave[signal.SIGINT]())
    elif door != "collect":  # which has workers and a half-written dataset to clean up, by the exception
        Listener(leave).__enter__()
    app.run(main, flags_parser=lambda argv: _parse(door, config, argv))


def _leave(door: str, why: str, status: int) -> NoReturn:
    """At a signal: an exception may be lost in a callback of JAX, and a compilation under way would crash
    Python's own end."""
    print(f"qt_jax {door}: {why}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _parse(door: str, config: Any, argv: list[str]) -> list[str]:
    """Flags and config file, or one line; `--help` lists every setting of the config that was given."""
    wants_help = {"-h", "--help"} & set(argv)
    try:
        rest = flags.FLAGS([argument for argument in argv if argument not in ("-h", "--help")])
        settings = {} if config is None else dict(config.value or {})  # a file that cannot be read raises here
    except Exception as error:  # whatever a config file or a value raised
        text = problem(error, argv)
        with_config = "" if config is None else " --config=FILE"
        print(f"qt_jax {door}: {text} (`python -m qt_jax {door}{with_config} --help` lists the settings)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    if wants_help:
        print(f"{DOORS[door]}\n\n{_USAGE}")
        if door in _OWN_FLAGS:
            print(flags.FLAGS.module_help(f"qt_jax.cli.{door}"))
        if settings:
            print(importlib.import_module("qt_jax.cli.help").of(config.value))
        raise SystemExit(0)
    return rest
