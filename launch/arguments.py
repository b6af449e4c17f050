"""The launchers' command line; what is wrong with it is one line."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import NoReturn

from qt_jax.errors import UserError

EPILOG = """Every --config.KEY=VALUE is passed on to `python -m qt_jax train`. With --sweep,
--config.workdir is the directory of the whole sweep. `python -m launch local --help` lists the
arguments of `local`, and so on.

  python -m launch local --sweep=experiments/sweeps/alpha.py --workers=2 --evaluate
  python -m launch slurm --config=experiments/quickstart.py --nodes=4 --option=--time=24:00:00 --dry-run
  python -m launch collect --sweep=experiments/sweeps/alpha.py
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
    doors = top.add_subparsers(
        dest="where", required=True, parser_class=functools.partial(_Parser, allow_abbrev=False)
    )
    _local(doors.add_parser("local", parents=[starts, rollouts], help="run on this machine"))
    _slurm(
        doors.add_parser(
            "slurm", parents=[starts, rollouts], help="submit a SLURM job; for a sweep, a job array"
        )
    )
    _tpu_vm(
        doors.add_parser(
            "tpu-vm",
            parents=[starts],
            help="make a slice with gcloud, bring the code to all of its hosts, run one run after the other",
        )
    )
    _gke(
        doors.add_parser(
            "gke", parents=[starts], help="print a JobSet for each run, for `kubectl apply -f -`"
        )
    )

    door = doors.add_parser("collect", parents=[what], help="show a sweep's runs as a table and plots")
    door.add_argument(
        "--metric",
        default="",
        help="to show: one of metrics.jsonl, or `success` of the rollouts (default: success if there is one, "
        "else validation/loss)",
    )
    return top


def _local(door: argparse.ArgumentParser) -> None:
    door.add_argument("--workers", type=_whole(1), default=1, help="how many runs at once (default: 1)")
    door.add_argument("--gpus", default="", help="such as 0,1,2,3: each run gets one of these GPUs")
    door.add_argument(
        "--restarts",
        type=_whole(0),
        default=3,
        help="how often a run is started again that was preempted, hung or lost a process (default: 3)",
    )


def _slurm(door: argparse.ArgumentParser) -> None:
    door.add_argument(
        "--nodes", type=_whole(1), default=1, help="nodes of each run, with one task on each (default: 1)"
    )
    door.add_argument(
        "--option",
        action="append",
        default=[],
        help="an option for sbatch, such as --option=--partition=gpu; may be repeated",
    )
    door.add_argument(
        "--setup",
        action="append",
        default=[],
        help="a line of shell to run first, such as --setup='module load cuda'; may be repeated",
    )
    door.add_argument("--python", default=sys.executable, help="the Python on the nodes (default: this one)")
    door.add_argument(
        "--at-once",
        type=_whole(0),
        default=0,
        help="runs of a sweep at the same time (default: 0, which is all)",
    )
    door.add_argument(
        "--notice-s",
        type=_whole(1, 65535),  # SLURM's own bounds
        default=180,
        help="seconds from SIGTERM to the time limit, longer than a step and a save (default: 180)",
    )
    door.add_argument(
        "--restarts", type=_whole(0), default=20, help="how often a job is requeued at most (default: 20)"
    )
    door.add_argument(
        "--test-only",
        action="store_true",
        help="ask SLURM whether it would take the script, and submit nothing",
    )


def _tpu_vm(door: argparse.ArgumentParser) -> None:
    door.add_argument("--name", required=True, help="name of the slice")
    door.add_argument("--zone", required=True, help="zone of the cloud, such as us-west4-a")
    door.add_argument("--accelerator", required=True, help="type of the slice, such as v5litepod-16")
    door.add_argument(
        "--version", required=True, help="version of the TPU software, such as v2-alpha-tpuv5-lite"
    )
    door.add_argument(
        "--project", default="", help="project of the cloud (default: the one that gcloud is set to)"
    )
    door.add_argument(
        "--spot", action="store_true", help="a Spot slice, which is cheaper and may be preempted"
    )
    door.add_argument("--delete", action="store_true", help="delete the slice when all runs are finished")
    door.add_argument(
        "--wait-s",
        type=_whole(0),
        default=86400,
        help="seconds to wait for capacity, each time (default: a day)",
    )
    door.add_argument(
        "--restarts",
        type=_whole(0),
        default=20,
        help="how often a run is started again, and failures in a row to reach the slice (default: 20)",
    )


def _gke(door: argparse.ArgumentParser) -> None:
    door.add_argument(
        "--image",
        required=True,
        help="an image made from launch/docker/Dockerfile.tpu or Dockerfile.gpu, in a registry",
    )
    door.add_argument(
        "--accelerator",
        required=True,
        help="the node pool's label, such as tpu-v5-lite-podslice or nvidia-h100-80gb",
    )
    door.add_argument(
        "--topology", default="", help="topology of a TPU slice, such as 4x4; leave it out for GPUs"
    )
    door.add_argument("--slices", type=_whole(1), default=1, help="TPU slices of each run (default: 1)")
    door.add_argument(
        "--hosts", type=_whole(1), required=True, help="nodes of each run, or of each of its TPU slices"
    )
    door.add_argument("--chips", type=_whole(1), required=True, help="TPU chips or GPUs of each node")
    door.add_argument("--namespace", default="default", help="of Kubernetes (default: default)")
    door.add_argument(
        "--queue",
        default="",
        help="a queue of Kueue, such as multislice-queue in clusters made by XPK (default: none)",
    )
    door.add_argument(
        "--service-account", default="default", help="the pods' service account, which must reach the bucket"
    )
    door.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable; may be repeated",
    )
    door.add_argument(
        "--secret",
        action="append",
        default=[],
        help="a secret, each of whose keys (such as WANDB_API_KEY) becomes an environment variable; may be "
        "repeated",
    )
    door.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="KIND/NAME:/PATH",
        help="may be repeated: pvc/CLAIM:/data, gcs/BUCKET:/data, nfs/SERVER/EXPORT:/data, secret/NAME:/k, "
        "configmap/NAME:/etc/lab, memory/8Gi:/dev/shm",
    )
    door.add_argument(
        "--node-selector",
        action="append",
        default=[],
        metavar="LABEL=VALUE",
        help="such as cloud.google.com/gke-spot=true; may be repeated",
    )
    door.add_argument(
        "--toleration",
        action="append",
        default=[],
        metavar="KEY[=VALUE][:EFFECT]",
        help="for a taint of the nodes; may be repeated",
    )
    door.add_argument(
        "--grace-s", type=_whole(1), default=180, help="seconds from SIGTERM to SIGKILL (default: 180)"
    )
    door.add_argument(
        "--restarts", type=_whole(0), default=20, help="how often a run is started again (default: 20)"
    )
