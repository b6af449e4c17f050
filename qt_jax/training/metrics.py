"""Metrics to a JSONL file, TensorBoard and a line on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

from qt_jax.errors import UserError


class MetricWriter:
    """`metrics.jsonl` (one object a line) and TensorBoard event files in the run's directory."""

    def __init__(self, workdir: str):
        from tensorboardX import SummaryWriter

        Path(workdir).mkdir(parents=True, exist_ok=True)
        self._file = (Path(workdir) / "metrics.jsonl").open("a")
        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "time": time.time(), **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def check_finite(step: int, values: dict[str, float]) -> None:
    """Raises a UserError that names the step and the first term that is NaN or Inf."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"Step {step}: {name} is {value}; training stopped and this state is not saved. Lower config.optimizer.learning_rate, or "
                "look at the data with this step's batch."
            )


def progress(step: int, steps: int, values: dict[str, float]) -> None:
    """One line that is rewritten on a terminal, and a line each on a log."""
    shown = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in values.items())
    end = "\r" if sys.stdout.isatty() and step < steps else "\n"
    print(f"step {step}/{steps}  {shown}", end=end, flush=True)
