"""The datasets that a config trains on: the tables of `data/`, and what `collect` wrote from the config's own environment."""

from __future__ import annotations

from typing import Any

from qt_jax.data import described, tables
from qt_jax.data.tables import Entry

COLLECTED = "collected"


def entries(config: Any) -> tuple[Entry, ...]:
    """Raises a UserError for a name that no table has."""
    own = {}
    if "env" in config:
        from qt_jax.envs import metaworld  # a cluster that trains on robots' data has no simulator

        own[COLLECTED] = metaworld.dataset_spec(config.env, config.data.path)
    elif config.data.mixture == COLLECTED:
        own[COLLECTED] = described.spec(config.data.path)
    return tables.resolve(config.data, own)
