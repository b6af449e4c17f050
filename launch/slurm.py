"""Writes and submits a SLURM script: of one run, or of a sweep as a job array."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch import templates
from launch.runs import AGAIN, KILLED, Run, check_distributed
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What a run gets of the cluster.

    Attributes:
        nodes: of each run.
        option: more options for sbatch, such as --gpus-per-node=8, as they stand in the script.
        setup: lines of shell before the run, to load modules for instance.
        python: the Python on the nodes.
        at_once: how many runs of an array at the same time; 0: all.
        notice_s: seconds from SIGTERM to the time limit.
        restarts: how often a job is requeued.

    """

    nodes: int
    option: Sequence[str]
    setup: Sequence[str]
    python: str
    at_once: int
    notice_s: int
    restarts: int


_SET = re.compile(
    "--(job-name|comment|nodes|ntasks|ntasks-per-node|no-requeue|open-mode|signal|output|array)(=.*)?"
    "|-[JNnoa].*"
)
"""Options that the script sets itself, after the user's; --ntasks would start several tasks on a node."""


def script(runs: Sequence[Run], name: str, directory: str, cluster: Cluster) -> str:
    """Returns the sbatch script of these runs.

    Args:
        runs: one run, or all of a sweep.
        name: the job's name.
        directory: where the job logs; it is the job's comment too, by which `submit` finds it.
        cluster: what each run gets.

    Raises:
        UserError: for what no script can hold or no run can use.

    """
    _check(runs, name, directory, cluster)

    log = f"{directory.replace('%', '%%')}/slurm-{'%A_%a' if len(runs) > 1 else '%j'}.log"
    at_once = f"%{cluster.at_once}" if cluster.at_once else ""
    values = dataclasses.asdict(cluster) | {"at_once": at_once, "start": str(Path.cwd())}
    values["again"] = AGAIN + KILLED
    return templates.render("slurm.sh", name=name, runs=runs, log=log, directory=directory, **values)


def _check(runs: Sequence[Run], name: str, directory: str, cluster: Cluster) -> None:
    """Checks what goes into the script.

    Raises:
        UserError: for rollouts on several nodes, for options that sbatch does not know or the script sets
            itself, and for names that no line of the script can hold.

    """
    if cluster.nodes > 1 and any(run.evaluate for run in runs):
        raise UserError(
            f"--evaluate with --nodes={cluster.nodes}: rollouts are one process's; train first, then "
            "evaluate with --nodes=1."
        )
    check_distributed(runs, cluster.nodes)

    for option in cluster.option:
        if not option.startswith("-"):
            raise UserError(
                f"--option={option} is no option of sbatch; give it with its dashes, such as "
                f"--option=--{option}."
            )
        if lost := [word for word in option.split() if _SET.fullmatch(word)]:
            raise UserError(
                f"--option={option} would be lost or break the script, which sets {lost[0]} itself: one task "
                "a node, and the rest from --nodes, --notice-s, --at-once and the work directory."
            )

    options = [("--option", option) for option in cluster.option]
    for what, value in [("config.workdir", directory), ("--sweep", name), *options]:
        if re.search(r"[\x00-\x1f\x7f]", value):
            remedy = "give it without line breaks and the like"
            raise UserError(f"{what} is {value!r}: no line of the script can hold it; {remedy}.")
    if "\\" in directory:  # SLURM would not put the job's number into the log's name
        raise UserError(
            f"config.workdir is {directory!r}; give it without a backslash, which SLURM takes for its own."
        )


def submit(directory: Path, text: str, test_only: bool = False) -> str:
    """Writes the script into the directory of the run or sweep, and submits it.

    Args:
        directory: of the run or sweep.
        text: the script.
        test_only: only ask whether SLURM would take it.

    Returns:
        What sbatch prints.

    Raises:
        UserError: if there is no sbatch, it refuses, or a job of this directory waits or runs already.

    """
    for line in _output("squeue", "--me", "--noheader", "--format=%A %k").splitlines():
        job, _, comment = line.partition(" ")
        if comment == str(directory):
            remedy = f"wait for it, or `scancel {job}` first"
            raise UserError(f"{directory} has job {job} already, which continues by itself; {remedy}.")

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "slurm.sh"
    path.write_text(text)
    return _output("sbatch", *(["--test-only"] if test_only else []), str(path))


def _output(*command: str) -> str:
    """Returns what a command prints; raises a UserError if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            f"There is no {command[0]} here; run this on the cluster's login node, or see the script with "
            "--dry-run."
        ) from None
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed: {' '.join(done.stderr.split())}")
    return (done.stdout + done.stderr).strip()
