"""What the learning benchmarks share: commands, and runs that are kept under the commit of their code."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from qt_jax.training import checkpoints

MACHINE = f"{platform.machine()} CPU, {os.cpu_count()} cores"


def command(name: str, config: str, *overrides: str) -> None:
    """Runs a command as a user does."""
    subprocess.run([sys.executable, "-m", "qt_jax", name, f"--config={config}", *overrides], check=True)


def collect(experiment: str, run: str, config: Any) -> None:
    """Collects a run's dataset, and before it the clone that acts in it, where they are not there."""
    if (Path(config.data.path) / "1.0.0").exists():
        return
    policy = config.collect.get("policy", "")
    if policy and not (Path(policy) / "checkpoints").exists():
        _, cell, seed = run.split(",")
        clone = f"clone,{cell},{seed}"
        module = importlib.import_module(experiment.removesuffix(".py").replace("/", "."))
        train(experiment, clone, module.get_config(clone))
    command("collect", f"{experiment}:{run}")


def train(experiment: str, run: str, config: Any) -> None:
    """Trains a run that is not finished, on data that are collected first where they are not there."""
    collect(experiment, run, config)
    if not checkpoints.finished(config):
        command("train", f"{experiment}:{run}")


def code_commit(experiment: str) -> str:
    """Returns the last commit that changed the code or this experiment; refuses changes without a commit."""
    paths = ["--", "qt_jax", experiment, "requirements.txt", ":!experiments/*.md", ":!experiments/results"]

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments, *paths], capture_output=True, text=True, check=True
        ).stdout.strip()

    if changed := git("status", "--porcelain"):
        sys.exit(f"Commit your changes first, so that the figures name the code they are of:\n{changed}")
    return git("log", "-1", "--format=%h")


def train_and_evaluate(config: str, workdir: Path, *overrides: str) -> dict[str, Any]:
    """Trains and evaluates a run, or evaluates a finished one.

    Returns:
        Its evaluation.json, and "training_minutes" from its first to its last metrics.

    """
    settings = [*overrides, f"--config.workdir={workdir}"]
    command("train", config, *settings)
    command("evaluate", config, *settings)
    times = [json.loads(line)["time"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return json.loads((workdir / "evaluation.json").read_text()) | {
        "training_minutes": (times[-1] - times[0]) / 60
    }


def episodes(task: dict[str, Any]) -> list[bool]:
    """Returns the outcomes of a task's episodes, successes first: evaluation.json has only their share."""
    good = round(task["success"] * task["episodes"])
    return [True] * good + [False] * (task["episodes"] - good)


def write(path: Path, **content: Any) -> None:
    path.write_text(json.dumps({"machine": MACHINE, **content}, indent=1) + "\n")
