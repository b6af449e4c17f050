"""Metrics to a JSONL file, TensorBoard and a line on the terminal."""

from __future__ import annotations

import json
import math
import sys
import time

from etils import epath

from qt_jax.errors import UserError


class MetricWriter:
    """`metrics.jsonl` (one object a line) and TensorBoard event files in the run's directory.

    Args:
        step: where the run continues; records of later steps, which it will write again, are dropped.
    """

    def __init__(self, workdir: str, step: int):
        from tensorboardX import SummaryWriter

        directory = epath.Path(workdir)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        path.write_text("".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step))
        self._file = path.open("a")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1 if lines else None)

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
