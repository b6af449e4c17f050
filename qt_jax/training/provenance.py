"""Records where a run came from, in its directory.

`config.json` is the resolved config. `starts.jsonl` has a line for each start.
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
from qt_jax.training.assets import plain_config

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "JAX_", "LD_LIBRARY_PATH", "LIBTPU_", "MUJOCO_GL", "NCCL_", "SLURM_ARRAY",
    "SLURM_JOB", "SLURM_N", "SLURM_PROC", "SLURM_RESTART", "TPU_", "XLA_",
)  # fmt: skip
"""Prefixes of the environment variables that are recorded; others may hold secrets."""


def record(config: Any, changes: dict[str, tuple[Any, Any]] | None = None) -> None:
    """Writes both files into `config.workdir`, on the first process.

    Args:
        config: the resolved config.
        changes: settings that differ from those of the checkpoint that the run continues from, {config.KEY:
            (before, now)}.

    """
    if jax.process_index():
        return
    folder = storage.directory(config.workdir)
    with storage.writing(folder / "config.json"):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain_config(config), indent=1, sort_keys=True) + "\n"
        storage.replace_text(folder / "config.json", text)
    storage.append_line(folder / "starts.jsonl", json.dumps(_start() | {"other_settings": changes or {}}))


def _start() -> dict[str, Any]:
    devices = jax.devices()
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}
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
        "environment": variables,
        "packages": {package.name: package.version for package in importlib.metadata.distributions()},
    }


def commit_of(package: Path) -> dict[str, Any]:
    """Returns the commit of the code, and the files that differ from it.

    In an image or on a TPU host, where there is no repository, QT_JAX_COMMIT holds the commit.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain").splitlines()}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": os.environ.get("QT_JAX_COMMIT") or None, "changed": []}
