"""SLURM: one sbatch script for a run, or for a sweep as a job array."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launch import templates
from launch.runs import AGAIN, KILLED, Run
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """nodes: of each run. option: more of sbatch's, such as --gpus-per-node=8, as they stand in the script. setup: lines of shell before
    the run (modules). at_once: runs of an array at the same time, 0: all. notice_s: from SIGTERM to the time limit."""

    nodes: int
    option: Sequence[str]
    setup: Sequence[str]
    python: str
    at_once: int
    notice_s: int
    restarts: int


def script(runs: Sequence[Run], name: str, log_directory: str, cluster: Cluster) -> str:
    """The script of these runs. Raises a UserError for rollouts on several nodes."""
    if cluster.nodes > 1 and any(run.evaluate for run in runs):
        raise UserError(f"--evaluate with --nodes={cluster.nodes}: rollouts are one process's; train first, then evaluate with --nodes=1.")
    log = f"{log_directory}/slurm-{'%A_%a' if len(runs) > 1 else '%j'}.log"
    at_once = f"%{cluster.at_once}" if cluster.at_once else ""
    values = dataclasses.asdict(cluster) | {"at_once": at_once}
    return templates.render("slurm.sh", name=name, runs=runs, log=log, directory=str(Path.cwd()), again=AGAIN + KILLED, **values)


def submit(path: Path, text: str, test_only: bool = False) -> str:
    """Writes the script and gives it to sbatch, or only asks whether it would be taken.

    Returns: what sbatch says.

    Raises:
        UserError: if there is no sbatch, or it refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        done = subprocess.run(["sbatch", *(["--test-only"] if test_only else []), str(path)], capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError("There is no sbatch here; run this on the cluster's login node, or look at the script with --dry-run.") from None
    if done.returncode:
        raise UserError(f"sbatch refused {path}: {' '.join(done.stderr.split())}")
    return (done.stdout + done.stderr).strip()
