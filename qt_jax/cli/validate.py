"""`validate`: every violation of RLDS' conventions in a config's datasets, by episode and step.

The exit status is 1 if there is any.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from qt_jax.cli import dataset_flags
from qt_jax.curation.validate import IMAGES, validate
from qt_jax.errors import EXIT_VIOLATIONS
from qt_jax.training import datasets

FLAGS = flags.FLAGS
_FOLDER = "runs/validate"


def define_flags() -> None:
    """Defines which datasets to validate, how closely, and where the violations go."""
    dataset_flags.define()
    flags.DEFINE_enum("images", "all", IMAGES, "Which images of an episode are decoded.")
    limit = "So many violations of a kind are printed; all are in the file."
    flags.DEFINE_integer("limit", 20, limit, lower_bound=0)
    dataset_flags.define_output(_FOLDER, "NAME.jsonl, a violation a line,")


def main(config: Any | None) -> None:
    """Validates the datasets and prints a report of each."""
    config = dataset_flags.select(config)
    total = 0
    for entry in datasets.entries(config):
        path = dataset_flags.output(_FOLDER) / f"{entry.name}.jsonl"
        count, report = validate(entry, config.data, path, FLAGS.images, FLAGS.limit)
        total += count
        print(report)
    if total:
        raise SystemExit(EXIT_VIOLATIONS)
