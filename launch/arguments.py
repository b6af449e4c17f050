"""The launchers' command line; what is wrong with it is one line."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import NoReturn

from qt_jax.errors import UserError

EPILOG = """Every --config.KEY=VALUE is passed on to `python -m qt_jax train`; for a sweep --config.workdir is
the whole sweep's directory.

  python -m launch local --sweep=experiments/sweeps/alpha.py --workers=2 --evaluate
  python -m launch slurm --config=experiments/quickstart.py --nodes=4 --option=--gpus-per-node=8
  --option=--time=24:00:00 --dry-run python -m launch collect --sweep=experiments/sweeps/alpha.py
"""


class _Parser(argparse.ArgumentParser):
    """Raises a UserError where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the arguments.")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A type of argument: whole numbers from `least` to `most`."""
    expected = f"{least} or more" if most is None else f"{least} to {most}"

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or not least <= int(text) <= (
            int(text) if most is None else most
        ):
            raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number, {expected}")
        return int(text)

    return parse


def parser(description: str) -> argparse.ArgumentParser:
    what = _Parser(add_help=False)
    given = what.add_mutually_exclusive_group(required=True)
    given.add_argument("--config", metavar="FILE", help="an experiment file: one run")
    given.add_argument("--sweep", metavar="FILE", help="a sweep: a run for each of its overrides()")
    starts = _Parser(add_help=False, parents=[what])
    starts.add_argument(
        "--dry-run", action="store_true", help="print exactly what would run, and run nothing"
    )
    rollouts = _Parser(add_help=False)
    rollouts.add_argument("--evaluate", action="store_true", help="roll each trained policy out, too")

    top = _Parser(
        prog="python -m launch",
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doors = top.add_subparsers(
        dest="where", required=True, parser_class=functools.partial(_Parser, allow_abbrev=False)
    )
    _local(doors.add_parser("local", parents=[starts, rollouts], help="processes on this machine"))
    _slurm(doors.add_parser("slurm", parents=[starts, rollouts], help="sbatch; a sweep is a job array"))
    _tpu_vm(
        doors.add_parser(
            "tpu-vm",
            parents=[starts],
            help="gcloud: a slice, the code on all of its hosts, the runs one by one",
        )
    )
    _gke(doors.add_parser("gke", parents=[starts], help="prints a JobSet a run, for `kubectl apply -f -`"))

    door = doors.add_parser("collect", parents=[what], help="a sweep's runs as a table and plots")
    door.add_argument(
        "--metric",
        default="",
        help="of metrics.jsonl or `success` of the rollouts (default: success, or else validation/loss)",
    )
    return top


def _local(door: argparse.ArgumentParser) -> None:
    door.add_argument("--workers", type=_whole(1), default=1, help="runs at once (default: 1)")
    door.add_argument(
        "--gpus", default="", help="such as 0,1,2,3: each run has one of them, so many at once at most"
    )
    door.add_argument(
        "--restarts",
        type=_whole(0),
        default=3,
        help="of a run that was preempted, hung or lost a process (default: 3)",
    )


def _slurm(door: argparse.ArgumentParser) -> None:
    door.add_argument("--nodes", type=_whole(1), default=1, help="of each run, one task a node (default: 1)")
    door.add_argument(
        "--option",
        action="append",
        default=[],
        help="of sbatch, as often as wanted: --option=--partition=gpu",
    )
    door.add_argument(
        "--setup",
        action="append",
        default=[],
        help="a line of shell before the run: --setup='module load cuda'",
    )
    door.add_argument("--python", default=sys.executable, help="on the nodes (default: this one)")
    door.add_argument(
        "--at-once", type=_whole(0), default=0, help="runs of a sweep at the same time; 0: all (default: 0)"
    )
    door.add_argument(
        "--notice-s",
        type=_whole(1, 65535),  # SLURM's own bounds
        default=180,
        help="from SIGTERM to the time limit: longer than a step and a save (default: 180)",
    )
    door.add_argument("--restarts", type=_whole(0), default=20, help="requeues at most (default: 20)")
    door.add_argument("--test-only", action="store_true", help="ask SLURM whether it would take the script")


def _tpu_vm(door: argparse.ArgumentParser) -> None:
    door.add_argument("--name", required=True, help="of the slice")
    door.add_argument("--zone", required=True, help="such as us-west4-a")
    door.add_argument("--accelerator", required=True, help="such as v5litepod-16")
    door.add_argument("--version", required=True, help="of the TPU software, such as v2-alpha-tpuv5-lite")
    door.add_argument("--project", default="", help="of the cloud (default: gcloud's)")
    door.add_argument("--spot", action="store_true", help="cheaper, and preempted at times")
    door.add_argument("--delete", action="store_true", help="the slice, when all runs are finished")
    door.add_argument(
        "--wait-s",
        type=_whole(0),
        default=86400,
        help="for a slice where the zone has no capacity, each time at most (default: a day)",
    )
    door.add_argument(
        "--restarts",
        type=_whole(0),
        default=20,
        help="of each run at most, and tries in a row of bringing it to the slice (default: 20)",
    )


def _gke(door: argparse.ArgumentParser) -> None:
    door.add_argument(
        "--image",
        required=True,
        help="of launch/docker/Dockerfile.tpu or Dockerfile.gpu, pushed to a registry",
    )
    door.add_argument(
        "--accelerator", required=True, help="the node pool's label: tpu-v5-lite-podslice, nvidia-h100-80gb"
    )
    door.add_argument("--topology", default="", help="of a TPU slice, such as 4x4; none: GPUs")
    door.add_argument("--slices", type=_whole(1), default=1, help="TPU slices of each run (default: 1)")
    door.add_argument(
        "--hosts", type=_whole(1), required=True, help="nodes of each run, or of each of its slices"
    )
    door.add_argument("--chips", type=_whole(1), required=True, help="TPU chips or GPUs of a node")
    door.add_argument("--namespace", default="default")
    door.add_argument(
        "--queue",
        default="",
        help="of Kueue, such as multislice-queue in the clusters that XPK makes (default: none)",
    )
    door.add_argument("--service-account", default="default", help="by which the pods reach the bucket")
    door.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable of the environment, as often as wanted",
    )
    door.add_argument(
        "--secret",
        action="append",
        default=[],
        help="of which every key is a variable of the environment, such as WANDB_API_KEY",
    )
    door.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="KIND/NAME:/PATH",
        help="pvc/CLAIM:/data, gcs/BUCKET:/data, nfs/SERVER/EXPORT:/data, secret/NAME:/keys, "
        "configmap/NAME:/etc/lab, memory/8Gi:/dev/shm",
    )
    door.add_argument(
        "--node-selector",
        action="append",
        default=[],
        metavar="LABEL=VALUE",
        help="such as cloud.google.com/gke-spot=true",
    )
    door.add_argument(
        "--toleration",
        action="append",
        default=[],
        metavar="KEY[=VALUE][:EFFECT]",
        help="of a taint that the nodes have",
    )
    door.add_argument("--grace-s", type=_whole(1), default=180, help="from SIGTERM to SIGKILL (default: 180)")
    door.add_argument("--restarts", type=_whole(0), default=20, help="of each run at most (default: 20)")
