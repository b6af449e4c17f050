"""Starts one run, or all runs of a sweep, on this machine or on a cluster.

The same command again skips the runs that are finished and continues the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import commit, gke, local, results, slurm, tpu_vm
from launch.arguments import parser
from launch.runs import Run, single, sweep
from qt_jax.cli import explain
from qt_jax.errors import EXIT_USER_ERROR, UserError


def main(arguments: Sequence[str]) -> None:
    """Runs the command line `python -m launch ARGUMENT...`.

    Raises:
        UserError: for arguments, settings or a sweep that cannot be used, and for runs that fail.

    """
    given, settings = parser(__doc__).parse_known_args(arguments)
    if unknown := [text for text in settings if not (text.startswith("--config.") and "=" in text)]:
        where = f"`python -m launch {given.command} --help` lists them"
        raise UserError(f"Unknown argument {unknown[0]!r}; {where}, settings are --config.KEY=VALUE.")

    evaluate = getattr(given, "evaluate", False)
    if given.sweep:
        runs = sweep(given.sweep, settings, evaluate)
    else:
        runs = [single(given.config, settings, evaluate)]
    if given.command == "results":
        return results.report(runs, given.metric)

    missing = [run for run in runs if not (_can_be_asked(run, given) and run.finished())]
    print(f"{len(runs)} run{'s' * (len(runs) > 1)}, {len(runs) - len(missing)} finished", file=sys.stderr)
    if missing:
        STARTS[given.command](missing, given)


def _can_be_asked(run: Run, given: argparse.Namespace) -> bool:
    """Returns whether to look in the run's directory if the run is finished.

    A dry run asks no bucket. For GKE it is not needed: kubectl leaves a JobSet that exists as it is.
    """
    return given.command in ("local", "slurm", "tpu-vm") and not (given.dry_run and "://" in run.workdir)


def _local(runs: list[Run], given: argparse.Namespace) -> None:
    if given.dry_run:
        return print("\n".join(run.shell(sys.executable) for run in runs))
    local.launch(runs, given.workers, tuple(filter(None, given.gpus.split(","))), given.restarts)


def _of(settings: type, given: argparse.Namespace) -> Any:
    """Makes a launcher's settings from the arguments, which have the same names."""
    return settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(settings)})


def _slurm(runs: list[Run], given: argparse.Namespace) -> None:
    name = Path(given.sweep).stem if given.sweep else runs[0].name
    directory = runs[0].logs.parent if given.sweep else runs[0].logs
    text = slurm.script(runs, name, str(directory), _of(slurm.Cluster, given))
    if given.dry_run:
        return print(text, end="")
    print(slurm.submit(directory, text, given.test_only))


def _tpu_vm(runs: list[Run], given: argparse.Namespace) -> None:
    head = commit.head()
    if uncommitted := commit.differing(commit.files_of(runs)):
        problem = f"The slice gets the commit HEAD, and {commit.listed(uncommitted)}"
        message = f"{problem}; commit what the runs need, or take it back."
        if not given.dry_run:
            raise UserError(message)
        print(f"launch: without --dry-run refused: {message}", file=sys.stderr)

    text = tpu_vm.script(runs, head, _of(tpu_vm.Slice, given))
    if given.dry_run:
        return print(text, end="")

    path = Path(f"runs/{given.name}.sh")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.execvp("bash", ["bash", str(path)])


def _gke(runs: list[Run], given: argparse.Namespace) -> None:
    print(gke.manifests(runs, _of(gke.Pool, given)), end="")  # kubectl applies it, so --dry-run is the same


STARTS = {"local": _local, "slurm": _slurm, "tpu-vm": _tpu_vm, "gke": _gke}

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"launch: {explain.line(error)}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
