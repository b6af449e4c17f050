"""Sends a run's metrics to Weights & Biases, where `config.train.wandb` names a project."""

from __future__ import annotations

import hashlib
from typing import Any

from qt_jax import storage
from qt_jax.errors import UserError
from qt_jax.training.assets import plain_config


class Tracker:
    """A run in Weights & Biases, with the resolved config and the name of the run's directory.

    A run that continues here continues there too. With WANDB_MODE=offline it is written into `WORKDIR/wandb`,
    and `wandb sync` sends it later.

    Args:
        config: the resolved config.
        born: when the run was first started, in seconds since the epoch (`metrics.first_start`).

    Raises:
        UserError: if wandb is not installed, or refuses the login.

    """

    def __init__(self, config: Any, born: float):
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"config.train.wandb is {config.train.wandb!r}, and wandb is not installed; run "
                "`pip install 'qt_jax[wandb]'`.",
                topic="missing-package",
            ) from None
        folder = storage.directory(config.workdir)
        try:
            self._run = wandb.init(
                project=config.train.wandb,
                name=folder.name,
                id=hashlib.sha256(f"{folder} {born}".encode()).hexdigest()[:16],
                resume="allow",
                config=plain_config(config),
                dir=None if "://" in config.workdir else str(folder),
                settings=wandb.Settings(console="off", quiet=True),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"config.train.wandb is {config.train.wandb!r}: {' '.join(str(error).split())}; run "
                "`wandb login`, set WANDB_MODE=offline, or leave it empty."
            ) from error
        # wandb's own step never goes back, but a run that lost steps logs them again.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Logs the metrics of a step."""
        self._run.log({"step": step, **values})

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()
