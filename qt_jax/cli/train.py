"""`train`: the learner on the datasets of config.data.mixture, into config.workdir."""

from __future__ import annotations

from typing import Any

import ml_collections

from qt_jax.cli import datasets
from qt_jax.training import distributed, loop
from qt_jax.training.checkpoint_errors import only_once
from qt_jax.training.peers import Peers
from qt_jax.training.preemption import Preemption


def main(config: Any) -> None:
    only_once()
    with Preemption(Peers()):
        peers = distributed.start(config.distributed)
    with peers:
        loop.train(ml_collections.FrozenConfigDict(config), datasets.entries(config), peers)
