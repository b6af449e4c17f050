"""Reads the launchers' command line; an error in it is one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from qt_jax.errors import UserError

EPILOG = """Every --config.KEY=VALUE is passed on to `python -m qt_jax train`. With --sweep,
--config.workdir is the directory of the whole sweep. `python -m launch local --help` lists the
arguments of `local`, and so on.

  python -m launch local --sweep=experiments/sweeps/alpha.py --workers=2 --evaluate
  python -m launch slurm --config=experiments/quickstart.py --nodes=4 --option=--time=24:00:00 --dry-run
  python -m launch results --sweep=experiments/sweeps/alpha.py
"""


class _Parser(argparse.ArgumentParser):
    """Raises a UserError where argparse would print its usage and exit; takes no abbreviations."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the arguments.")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns a type of argument: whole numbers from `least` to `most`, both included."""
    expected = f"{least} or more" if most is None else f"{least} to {most}"

    def parse(text: str) -> int:
        number = int(text) if text.removeprefix("-").isdecimal() else None
        if number is None or number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number, {expected}")
        return number

    return parse


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of `python -m launch`, which leaves settings of the config to its caller.

    Its `command` is one of local, slurm, tpu-vm, gke and results.
    """
    what = _Parser(add_help=False)
    given = what.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", metavar="FILE", help="an experiment file, for one run")
    given.add_argument("--sweep", metavar="FILE", help="a sweep file, for a run of each of its overrides()")
    starts = _Parser(add_help=False, parents=[what])
    starts.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    rollouts = _Parser(add_help=False)
    rollouts.add_argument("--evaluate", action="store_true", help="also roll out each trained policy")

    top = _Parser(
        prog="python -m launch",
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, parents: Sequence[_Parser], help_: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, parents=parents, help=help_)

    on_tpu_vm = "make a slice with gcloud, bring the code to all of its hosts, run one run after the other"
    _local(add("local", [starts, rollouts], "run on this machine"))
    _slurm(add("slurm", [starts, rollouts], "submit a SLURM job; for a sweep, a job array"))
    _tpu_vm(add("tpu-vm", [starts], on_tpu_vm))
    _gke(add("gke", [starts], "print a JobSet for each run, for `kubectl apply -f -`"))
    _results(add("results", [what], "show a sweep's runs as a table and plots"))
    return top


def _results(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--metric",
        default="",
        help="to show: one of metrics.jsonl, or `success` of the rollouts (default: success if there is one, "
        "else validation/loss)",
    )


def _local(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=_whole(1), default=1, help="how many runs at once (default: 1)")
    command.add_argument("--gpus", default="", help="such as 0,1,2,3: each run gets one of these GPUs")
    command.add_argument(
        "--restarts",
        type=_whole(0),
        default=3,
        help="how often a run is started again that was preempted, hung or lost a process (default: 3)",
    )


def _slurm(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--nodes", type=_whole(1), default=1, help="nodes of each run, with one task on each (default: 1)"
    )
    command.add_argument(
        "--option",
        action="append",
        default=[],
        help="an option for sbatch, such as --option=--partition=gpu; may be repeated",
    )
    command.add_argument(
        "--setup",
        action="append",
        default=[],
        help="a line of shell to run first, such as --setup='module load cuda'; may be repeated",
    )
    command.add_argument(
        "--python", default=sys.executable, help="the Python on the nodes (default: this one)"
    )
    command.add_argument(
        "--at-once",
        type=_whole(0),
        default=0,
        help="runs of a sweep at the same time (default: 0, which is all)",
    )
    command.add_argument(
        "--notice-s",
        type=_whole(1, 65535),  # SLURM's own bounds
        default=180,
        help="seconds from SIGTERM to the time limit, longer than a step and a save (default: 180)",
    )
    command.add_argument(
        "--restarts", type=_whole(0), default=20, help="how often a job is requeued at most (default: 20)"
    )
    command.add_argument(
        "--test-only",
        action="store_true",
        help="ask SLURM whether it would take the script, and submit nothing",
    )


def _tpu_vm(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", required=True, help="name of the slice")
    command.add_argument("--zone", required=True, help="zone of the cloud, such as us-west4-a")
    command.add_argument("--accelerator", required=True, help="type of the slice, such as v5litepod-16")
    command.add_argument(
        "--version", required=True, help="version of the TPU software, such as v2-alpha-tpuv5-lite"
    )
    command.add_argument(
        "--project", default="", help="project of the cloud (default: the one that gcloud is set to)"
    )
    command.add_argument(
        "--spot", action="store_true", help="a Spot slice, which is cheaper and may be preempted"
    )
    command.add_argument("--delete", action="store_true", help="delete the slice when all runs are finished")
    command.add_argument(
        "--wait-s",
        type=_whole(0),
        default=86400,
        help="seconds to wait for capacity, each time (default: a day)",
    )
    command.add_argument(
        "--restarts",
        type=_whole(0),
        default=20,
        help="how often a run is started again, and failures in a row to reach the slice (default: 20)",
    )


def _gke(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--image",
        required=True,
        help="an image made from launch/docker/Dockerfile.tpu or Dockerfile.gpu, in a registry",
    )
    command.add_argument(
        "--accelerator",
        required=True,
        help="the node pool's label, such as tpu-v5-lite-podslice or nvidia-h100-80gb",
    )
    command.add_argument(
        "--topology", default="", help="topology of a TPU slice, such as 4x4; leave it out for GPUs"
    )
    command.add_argument("--slices", type=_whole(1), default=1, help="TPU slices of each run (default: 1)")
    command.add_argument(
        "--hosts", type=_whole(1), required=True, help="nodes of each run, or of each of its TPU slices"
    )
    command.add_argument("--chips", type=_whole(1), required=True, help="TPU chips or GPUs of each node")
    command.add_argument("--namespace", default="default", help="of Kubernetes (default: default)")
    command.add_argument(
        "--queue",
        default="",
        help="a queue of Kueue, such as multislice-queue in clusters made by XPK (default: none)",
    )
    command.add_argument(
        "--service-account", default="default", help="the pods' service account, which must reach the bucket"
    )
    command.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable; may be repeated",
    )
    command.add_argument(
        "--secret",
        action="append",
        default=[],
        help="a secret, each of whose keys (such as WANDB_API_KEY) becomes an environment variable; may be "
        "repeated",
    )
    command.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="KIND/NAME:/PATH",
        help="may be repeated: pvc/CLAIM:/data, gcs/BUCKET:/data, nfs/SERVER/EXPORT:/data, secret/NAME:/k, "
        "configmap/NAME:/etc/lab, memory/8Gi:/dev/shm",
    )
    command.add_argument(
        "--node-selector",
        action="append",
        default=[],
        metavar="LABEL=VALUE",
        help="such as cloud.google.com/gke-spot=true; may be repeated",
    )
    command.add_argument(
        "--toleration",
        action="append",
        default=[],
        metavar="KEY[=VALUE][:EFFECT]",
        help="for a taint of the nodes; may be repeated",
    )
    command.add_argument(
        "--grace-s", type=_whole(1), default=180, help="seconds from SIGTERM to SIGKILL (default: 180)"
    )
    command.add_argument(
        "--restarts", type=_whole(0), default=20, help="how often a run is started again (default: 20)"
    )
