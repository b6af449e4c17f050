"""The datasets that a config trains on: of the tables in `data/`, or collected in its own environment."""

from __future__ import annotations

from typing import Any

from qt_jax.data import described, tables
from qt_jax.data.tables import Entry
from qt_jax.errors import UserError

COLLECTED = "collected"


def entries(config: Any) -> tuple[Entry, ...]:
    """Lists the datasets of `config.data.mixture`; raises a UserError for a name that no table has."""
    own = {}
    if "env" in config:
        from qt_jax.envs import suites  # a cluster that trains on robots' data has no simulator

        own[COLLECTED] = suites.dataset_spec(config)
    elif config.data.mixture == COLLECTED:
        own[COLLECTED] = described.spec(config.data.path)
    return tables.resolve(config.data, own)


def select(config: Any | None, path: str, dataset: str = "") -> Any:
    """Returns the config that describes the data to look at.

    Args:
        config: an experiment's, or None.
        path: of a dataset that describes itself, where there is no config.
        dataset: the name of one of the config's datasets, or "" for all.

    Raises:
        UserError: unless either a config or a path is given, or for a dataset's name with a path.

    """
    if bool(path) == (config is not None) or (path and dataset):
        raise UserError(
            "Give --config=FILE (and --dataset=NAME for one dataset), or --data=PATH of a dataset that "
            "describes itself."
        )
    if config is None:
        from qt_jax.training.config import default_config

        config = default_config("q_transformer")
        config.data.path = path
    elif dataset:
        config.data.mixture = dataset  # a dataset's name is itself a mixture
    return config
