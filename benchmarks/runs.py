"""What the learning benchmarks share: the doors, and runs kept by the commit of the code that made them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

MACHINE = f"{platform.machine()} CPU, {os.cpu_count()} cores"


def door(name: str, config: str, *overrides: str) -> None:
    """A door of the command line, as a user opens it."""
    subprocess.run([sys.executable, "-m", "qt_jax", name, f"--config={config}", *overrides], check=True)


def code_commit(experiment: str) -> str:
    """The last commit that changed the code or this experiment, so that a figure is never of other code than
    it says.
    """
    paths = ["--", "qt_jax", experiment, "requirements.txt", ":!experiments/*.md", ":!experiments/results"]

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments, *paths], capture_output=True, text=True, check=True
        ).stdout.strip()

    if changed := git("status", "--porcelain"):
        sys.exit(f"Commit your changes first, so that the figures name the code they are of:\n{changed}")
    return git("log", "-1", "--format=%h")


def train_and_evaluate(config: str, workdir: Path, *overrides: str) -> dict[str, Any]:
    """evaluation.json of the run with the minutes from its first to its last metrics.

    A finished run is not trained again.
    """
    settings = [*overrides, f"--config.workdir={workdir}"]
    door("train", config, *settings)
    door("evaluate", config, *settings)
    times = [json.loads(line)["time"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return json.loads((workdir / "evaluation.json").read_text()) | {
        "training_minutes": (times[-1] - times[0]) / 60
    }


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps({"machine": MACHINE, **content}, indent=1) + "\n")
