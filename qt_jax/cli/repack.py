"""`repack`: TFRecord files as ArrayRecord files, in which `train` reads any episode at any time."""

from __future__ import annotations

from absl import flags

from qt_jax.curation import repack
from qt_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what to copy, and where."""
    source = "A TFDS dataset in TFRecord files: a version directory, or the folder that holds it."
    flags.DEFINE_string("input", "", source)
    flags.DEFINE_string("output", "", "Where the copy goes; the version's directory is made in it.")


def main() -> None:
    """Repacks the dataset and prints its size."""
    if not (FLAGS.input and FLAGS.output):
        raise UserError("Give both --input=DATASET and --output=FOLDER.")
    path, records, size = repack.repack(FLAGS.input, FLAGS.output)
    print(f"{path}: {records} records, {size / 2**20:,.1f} MiB")
