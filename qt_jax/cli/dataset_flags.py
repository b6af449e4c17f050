"""The flags of commands that look at datasets: those of a config, or one that describes itself."""

from __future__ import annotations

from typing import Any

from absl import flags
from etils import epath

from qt_jax import storage
from qt_jax.training import datasets

FLAGS = flags.FLAGS


def define() -> None:
    """Defines which datasets are looked at."""
    flags.DEFINE_string(
        "data", "", "A dataset that `collect` or `convert` wrote, or a LeRobot folder; then no --config."
    )
    flags.DEFINE_string("dataset", "", "This dataset of the tables alone. [all of config.data.mixture]")


def define_output(folder: str, what: str) -> None:
    """Defines where a page or a report of each dataset goes: below `folder` unless a flag says otherwise."""
    flags.DEFINE_string("output", "", f"Where {what} goes. [{folder}, of --data a folder of its name in it]")


def output(folder: str) -> epath.Path:
    """Returns the folder for what the command writes, so that two datasets of --data do not share one."""
    name = storage.directory(FLAGS.data).name if FLAGS.data else ""
    return storage.directory(FLAGS.output or folder) / ("" if FLAGS.output else name)


def select(config: Any | None) -> Any:
    """Returns the config that describes the data to look at: see `datasets.select`."""
    return datasets.select(config, FLAGS.data, FLAGS.dataset)
