"""Starts one run, or all runs of a sweep, on this machine or on a cluster.

Given again, the same command skips what is finished and continues the rest.
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
from qt_jax.errors import EXIT_USER_ERROR, UserError


def main(arguments: Sequence[str]) -> None:
    given, settings = parser(__doc__).parse_known_args(arguments)
    if unknown := [
        setting for setting in settings if not setting.startswith("--config.") or "=" not in setting
    ]:
        raise UserError(
            f"Unknown argument {unknown[0]!r}; `python -m launch {given.where} --help` lists them, settings are --config.KEY=VALUE."
        )
    evaluate = getattr(given, "evaluate", False)
    runs = (
        sweep(given.sweep, settings, evaluate) if given.sweep else [single(given.config, settings, evaluate)]
    )
    if given.where == "collect":
        return results.collect(runs, given.metric)
    missing = [run for run in runs if not (_asked(run, given) and run.finished())]
    print(f"{len(runs)} run{'s' * (len(runs) > 1)}, {len(runs) - len(missing)} finished", file=sys.stderr)
    if missing:
        STARTS[given.where](missing, given)


def _asked(run: Run, given: argparse.Namespace) -> bool:
    """Whether it is asked if it is finished: a dry run asks no bucket, and kubectl itself leaves a JobSet as
    it is that is there.
    """
    return given.where in ("local", "slurm", "tpu-vm") and not (given.dry_run and "://" in run.workdir)


def _local(runs: list[Run], given: argparse.Namespace) -> None:
    if given.dry_run:
        return print("\n".join(run.shell(sys.executable) for run in runs))
    local.launch(runs, given.workers, tuple(filter(None, given.gpus.split(","))), given.restarts)


def _of(settings: type, given: argparse.Namespace) -> Any:
    """A launcher's settings, which bear the names of its arguments."""
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
        told = (
            f"The slice gets the commit HEAD, and {commit.listed(uncommitted)}; commit what the runs need, "
            "or take it back."
        )
        if not given.dry_run:
            raise UserError(told)
        print(f"launch: without --dry-run refused: {told}", file=sys.stderr)
    text = tpu_vm.script(runs, head, _of(tpu_vm.Slice, given))
    if given.dry_run:
        return print(text, end="")
    path = Path(f"runs/{given.name}.sh")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.execvp("bash", ["bash", str(path)])


def _gke(runs: list[Run], given: argparse.Namespace) -> None:
    print(gke.manifests(runs, _of(gke.Pool, given)), end="")  # which is a dry run: kubectl applies it


STARTS = {"local": _local, "slurm": _slurm, "tpu-vm": _tpu_vm, "gke": _gke}

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"launch: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
