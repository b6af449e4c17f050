"""TPU VMs: a script of gcloud commands that makes a slice, brings the code, and runs on all of its hosts."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence

from launch import templates
from launch.runs import AGAIN, Run
from qt_jax.errors import UserError

INSTALL = " && ".join((
    "cd qt_jax_code",
    "tar -xf ../qt_jax_code.tar",
    "python3 -m venv .venv",
    ".venv/bin/pip install -q --require-hashes -r requirements-tpu.txt",
    ".venv/bin/pip install -q --no-deps -e .",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice: accelerator such as v5litepod-16, software version such as v2-alpha-tpuv5-lite. delete: when all runs are finished."""

    name: str
    zone: str
    accelerator: str
    version: str
    project: str
    spot: bool
    delete: bool
    restarts: int


def script(runs: Sequence[Run], slice_: Slice) -> str:
    """Raises a UserError for work directories that die with the slice, and an experiment that is not in the commit that goes there."""
    if local := [run.workdir for run in runs if "://" not in run.workdir]:
        raise UserError(
            f"config.workdir is {local[0]!r}, on a disk that goes with the slice; give a bucket: --config.workdir=gs://BUCKET/runs/NAME."
        )
    file = runs[0].experiment.partition(":")[0]
    if subprocess.run(["git", "cat-file", "-e", f"HEAD:./{file}"], capture_output=True).returncode:
        raise UserError(f"{file} is not in the commit HEAD, which is what the slice gets; put it into the repository and commit it.")
    create = [f"--accelerator-type={slice_.accelerator}", f"--version={slice_.version}", *(["--spot"] if slice_.spot else [])]
    where = [f"--zone={slice_.zone}", *([f"--project={slice_.project}"] if slice_.project else [])]
    return templates.render(
        "tpu_vm.sh", name=slice_.name, runs=runs, python=".venv/bin/python", where=where, create=create, install=INSTALL, again=AGAIN,
        restarts=slice_.restarts, delete=slice_.delete,
    )  # fmt: skip
