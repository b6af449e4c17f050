"""Where a run came from, in its directory: `config.json`, the resolved config, and a line of `starts.jsonl`
each time it starts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

import qt_jax
from qt_jax import storage
from qt_jax.training import checkpoints

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "JAX_", "LD_LIBRARY_PATH", "LIBTPU_", "MUJOCO_GL", "NCCL_", "SLURM_ARRAY",
              "SLURM_JOB", "SLURM_N", "SLURM_PROC", "SLURM_RESTART", "TPU_", "XLA_")  # fmt: skip
"""Beginnings of the names of environment variables that are kept; others may hold secrets."""


def record(config: Any, changes: dict[str, tuple[Any, Any]] | None = None) -> None:
    """Writes both files of `config.workdir`; the first process does.

    Args:
        changes: settings that the checkpoint which the run continues from was made with otherwise:
            {config.KEY: (before, now)}.

    """
    if jax.process_index():
        return
    folder = storage.directory(config.workdir)
    with storage.writing(folder / "config.json"):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(checkpoints.plain_config(config), indent=1, sort_keys=True) + "\n"
        storage.replace_text(folder / "config.json", text)
    storage.append_line(folder / "starts.jsonl", json.dumps(_start() | {"other_settings": changes or {}}))


def _start() -> dict[str, Any]:
    devices = jax.devices()
    return {
        "time": time.time(),
        "command": shlex.join([sys.executable, *sys.argv]),
        "directory": os.getcwd(),
        "qt_jax": qt_jax.__version__,
        **commit_of(Path(qt_jax.__file__).parent),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)
        },
        "packages": {package.name: package.version for package in importlib.metadata.distributions()},
    }


def commit_of(package: Path) -> dict[str, Any]:
    """The commit of the code, and the files that differ from it.

    QT_JAX_COMMIT where it is in no repository (images, TPU hosts).
    """

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain").splitlines()}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": os.environ.get("QT_JAX_COMMIT") or None, "changed": []}
