"""Starts runs on this machine or on a cluster, a sweep's or one; the same command later starts what is missing and continues the rest."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import gke, local, results, slurm, tpu_vm
from launch.runs import Run, single, sweep
from qt_jax import storage
from qt_jax.errors import EXIT_USER_ERROR, UserError

EPILOG = """Every --config.KEY=VALUE is passed on to `python -m qt_jax train`; for a sweep --config.workdir is the whole sweep's directory.

  python -m launch local --sweep=experiments/sweeps/alpha.py --workers=2 --evaluate
  python -m launch slurm --config=experiments/quickstart.py --nodes=4 --option=--gpus-per-node=8 --option=--time=24:00:00 --dry-run
  python -m launch collect --sweep=experiments/sweeps/alpha.py
"""


def parser() -> argparse.ArgumentParser:
    what = argparse.ArgumentParser(add_help=False)
    given = what.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", metavar="FILE", help="an experiment file: one run")
    given.add_argument("--sweep", metavar="FILE", help="a sweep: a run for each of its overrides()")
    starts = argparse.ArgumentParser(add_help=False, parents=[what])
    starts.add_argument("--dry-run", action="store_true", help="print exactly what would run, and run nothing")
    rollouts = argparse.ArgumentParser(add_help=False)
    rollouts.add_argument("--evaluate", action="store_true", help="roll each trained policy out, too")

    top = argparse.ArgumentParser(
        prog="python -m launch",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doors = top.add_subparsers(dest="where", required=True, parser_class=functools.partial(argparse.ArgumentParser, allow_abbrev=False))
    door = doors.add_parser("local", parents=[starts, rollouts], help="processes on this machine")
    door.add_argument("--workers", type=int, default=1, help="runs at once (default: 1)")
    door.add_argument("--gpus", default="", help="such as 0,1,2,3: each run has one of them, so many at once at most")
    door.add_argument("--restarts", type=int, default=3, help="of a run that was preempted, hung or lost a process (default: 3)")

    door = doors.add_parser("slurm", parents=[starts, rollouts], help="sbatch; a sweep is a job array")
    door.add_argument("--nodes", type=int, default=1, help="of each run, one task a node (default: 1)")
    door.add_argument("--option", action="append", default=[], help="of sbatch, as often as wanted: --option=--partition=gpu")
    door.add_argument("--setup", action="append", default=[], help="a line of shell before the run: --setup='module load cuda'")
    door.add_argument("--python", default=sys.executable, help="on the nodes (default: this one)")
    door.add_argument("--at-once", type=int, default=0, help="runs of a sweep at the same time (default: all)")
    door.add_argument(
        "--notice-s", type=int, default=180, help="from SIGTERM to the time limit: longer than a step and a save (default: 180)"
    )
    door.add_argument("--restarts", type=int, default=20, help="requeues at most (default: 20)")
    door.add_argument("--test-only", action="store_true", help="ask SLURM whether it would take the script")

    door = doors.add_parser("tpu-vm", parents=[starts], help="gcloud: a slice, the code on all of its hosts, the runs one by one")
    door.add_argument("--name", required=True, help="of the slice")
    door.add_argument("--zone", required=True, help="such as us-west4-a")
    door.add_argument("--accelerator", required=True, help="such as v5litepod-16")
    door.add_argument("--version", required=True, help="of the TPU software, such as v2-alpha-tpuv5-lite")
    door.add_argument("--project", default="", help="of the cloud (default: gcloud's)")
    door.add_argument("--spot", action="store_true", help="cheaper, and preempted at times")
    door.add_argument("--delete", action="store_true", help="the slice, when all runs are finished")
    door.add_argument("--restarts", type=int, default=20, help="of each run at most (default: 20)")

    door = doors.add_parser("gke", parents=[starts], help="prints a JobSet a run, for `kubectl apply -f -`")
    door.add_argument("--image", required=True, help="of launch/docker/Dockerfile.tpu or Dockerfile.gpu, pushed to a registry")
    door.add_argument("--accelerator", required=True, help="the node pool's label: tpu-v5-lite-podslice, nvidia-h100-80gb")
    door.add_argument("--topology", default="", help="of a TPU slice, such as 4x4; none: GPUs")
    door.add_argument("--hosts", type=int, required=True, help="nodes of each run")
    door.add_argument("--chips", type=int, required=True, help="TPU chips or GPUs of a node")
    door.add_argument("--namespace", default="default")
    door.add_argument("--queue", default="", help="of Kueue, such as multislice-queue in the clusters that XPK makes (default: none)")
    door.add_argument("--service-account", default="default", help="that may read pods and jobs, for several GPU nodes")
    door.add_argument("--grace-s", type=int, default=180, help="from SIGTERM to SIGKILL (default: 180)")
    door.add_argument("--restarts", type=int, default=20, help="of each run at most (default: 20)")

    door = doors.add_parser("collect", parents=[what], help="a sweep's runs as a table and plots")
    door.add_argument(
        "--metric", default="", help="of metrics.jsonl or `success` of the rollouts (default: success, or else validation/loss)"
    )
    return top


def main(arguments: Sequence[str]) -> None:
    given, settings = parser().parse_known_args(arguments)
    if unknown := [setting for setting in settings if not setting.startswith("--config.") or "=" not in setting]:
        raise UserError(
            f"Unknown argument {unknown[0]!r}; `python -m launch {given.where} --help` lists them, settings are --config.KEY=VALUE."
        )
    evaluate = getattr(given, "evaluate", False)
    runs = sweep(given.sweep, settings, evaluate) if given.sweep else [single(given.config, settings, evaluate)]
    if given.where == "collect":
        return results.collect(runs, given.metric)
    # A dry run asks no bucket, and kubectl itself leaves a JobSet as it is that is there.
    ask = given.where in ("local", "slurm") or (given.where == "tpu-vm" and not given.dry_run)
    missing = [run for run in runs if not (ask and run.finished())]
    print(f"{len(runs)} run{'s' * (len(runs) > 1)}, {len(runs) - len(missing)} finished", file=sys.stderr)
    if missing:
        STARTS[given.where](missing, given)


def _local(runs: list[Run], given: argparse.Namespace) -> None:
    if given.dry_run:
        return print("\n".join(run.shell(sys.executable) for run in runs))
    local.launch(runs, given.workers, tuple(filter(None, given.gpus.split(","))), given.restarts)


def _of(settings: type, given: argparse.Namespace) -> Any:
    """A launcher's settings, which bear the names of its arguments."""
    return settings(**{field.name: getattr(given, field.name) for field in dataclasses.fields(settings)})


def _slurm(runs: list[Run], given: argparse.Namespace) -> None:
    name = Path(given.sweep).stem if given.sweep else runs[0].name
    directory = Path(storage.directory(os.path.dirname(runs[0].workdir) if given.sweep else runs[0].workdir))
    text = slurm.script(runs, name, str(directory), _of(slurm.Cluster, given))
    if given.dry_run:
        return print(text, end="")
    print(slurm.submit(directory, text, given.test_only))


def _tpu_vm(runs: list[Run], given: argparse.Namespace) -> None:
    text = tpu_vm.script(runs, _of(tpu_vm.Slice, given))
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
