"""The flags of commands that look at datasets: those of a config, or one that describes itself."""

from __future__ import annotations

from typing import Any

from absl import flags

from qt_jax.training import datasets

FLAGS = flags.FLAGS


def define() -> None:
    """Defines which datasets are looked at."""
    flags.DEFINE_string(
        "data", "", "A dataset that `collect` or `convert` wrote, or a LeRobot folder; then no --config."
    )
    flags.DEFINE_string("dataset", "", "This dataset of the tables alone. [all of config.data.mixture]")


def select(config: Any | None) -> Any:
    """Returns the config that describes the data to look at: see `datasets.select`."""
    return datasets.select(config, FLAGS.data, FLAGS.dataset)
