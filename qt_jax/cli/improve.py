"""`improve`: rounds of experience, from the run in config.workdir on."""

from __future__ import annotations

from typing import Any

from qt_jax.improvement import page, rounds
from qt_jax.training.checkpoint_errors import only_once


def main(config: Any) -> None:
    """Runs the rounds that are left, with Orbax's own messages silenced, and prints the table."""
    only_once()
    for row in rounds.improve(config):
        print(page.line(row))
    print(f"page: {config.workdir}/{rounds.FOLDER}/{page.PAGE}")
