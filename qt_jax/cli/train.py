"""`train`: the learner on the datasets of config.data.mixture, into config.workdir."""

from __future__ import annotations

from typing import Any

import ml_collections

from qt_jax.cli import datasets
from qt_jax.training import distributed, loop
from qt_jax.training.checkpoint_errors import only_once


def main(config: Any) -> None:
    only_once()
    with distributed.start(config.distributed) as peers:
        loop.train(ml_collections.FrozenConfigDict(config), datasets.entries(config), peers)
