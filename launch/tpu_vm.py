"""Writes a script of gcloud commands that makes a TPU slice, brings the code and runs on all of its hosts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from launch import templates, tpus
from launch.runs import AGAIN, KILLED, Run, check_devices, check_distributed
from qt_jax.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, UserError

INSTALL = " && ".join((
    "cd qt_jax_code",
    "tar -xf ../qt_jax_code.tar",
    "python3 -m venv .venv",
    ".venv/bin/pip install -q --require-hashes -r requirements-tpu.txt",
    ".venv/bin/pip install -q --no-deps -e .",
))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice, and how long to try.

    Attributes:
        name: of the slice.
        zone: of the cloud, such as us-west4-a.
        accelerator: type of the slice, such as v5litepod-16.
        version: of the TPU software, such as v2-alpha-tpuv5-lite.
        project: of the cloud; empty: gcloud's own.
        spot: whether it is a Spot slice, which may be preempted.
        delete: whether to delete it when all runs are finished.
        wait_s: seconds to wait for capacity, each time.
        restarts: how often a run is started again, and failures in a row to bring the code to the slice.

    """

    name: str
    zone: str
    accelerator: str
    version: str
    project: str
    spot: bool
    delete: bool
    wait_s: int
    restarts: int


def script(runs: Sequence[Run], commit: str, slice_: Slice) -> str:
    """Returns the bash script of these runs.

    Args:
        runs: one run or more, which run one after the other.
        commit: whose code the slice gets.
        slice_: where they run.

    Raises:
        UserError: for work directories that are lost with the slice, a batch or mesh that does not suit its
            chips, and names that gcloud cannot take.

    """
    if local := [run.workdir for run in runs if "://" not in run.workdir]:
        problem = f"config.workdir is {local[0]!r}, on a disk that goes with the slice"
        raise UserError(f"{problem}; give a bucket: --config.workdir=gs://BUCKET/runs/NAME.")
    if not re.fullmatch("[a-z]([-a-z0-9]{0,61}[a-z0-9])?", slice_.name):
        expected = "expected lower-case letters, digits and dashes, a letter first, such as qt-1"
        raise UserError(f"--name={slice_.name!r}: {expected}.")
    for argument in ("zone", "accelerator", "version", "project"):
        value = getattr(slice_, argument)
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9.:_-]*", value) and (value or argument != "project"):
            raise UserError(f"--{argument}={value!r}: expected letters, digits, dots and dashes.")

    devices = tpus.devices_of_type(slice_.accelerator)
    check_distributed(runs, hosts=1 if devices is None or devices <= 8 else 2)  # 2 stands for several
    if devices is not None:
        check_devices(runs, devices)

    create = [
        f"--accelerator-type={slice_.accelerator}",
        f"--version={slice_.version}",
        *(["--spot"] if slice_.spot else []),
    ]
    where = [f"--zone={slice_.zone}", *([f"--project={slice_.project}"] if slice_.project else [])]
    return templates.render(
        "tpu_vm.sh",
        **dataclasses.asdict(slice_),
        runs=runs,
        start=str(Path.cwd()),
        commit=commit,
        python=".venv/bin/python",
        where=where,
        create=create,
        install=INSTALL,
        again=AGAIN + KILLED,
        bad_input=EXIT_USER_ERROR,
        temporary=EXIT_PREEMPTED,
    )
