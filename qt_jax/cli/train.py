"""`train`: the learner on the datasets of config.data.mixture, into config.workdir."""

from __future__ import annotations

from typing import Any

import ml_collections

from qt_jax.cli import datasets
from qt_jax.training import distributed, loop


def main(config: Any) -> None:
    with distributed.start(config.distributed) as peers:
        loop.train(ml_collections.FrozenConfigDict(config), datasets.entries(config), peers)
