"""`train`: trains on the datasets of config.data.mixture, into config.workdir."""

from __future__ import annotations

from typing import Any

from qt_jax import front_door
from qt_jax.training.checkpoint_errors import only_once


def main(config: Any) -> None:
    """Trains, with Orbax's own messages silenced: its errors are raised here."""
    only_once()
    front_door.train(config)
