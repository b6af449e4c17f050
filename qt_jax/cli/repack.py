"""`repack`: TFRecord -> ArrayRecord, for a true global shuffle: `train` then reads any episode at any time."""

from __future__ import annotations

from absl import flags

from qt_jax.curation import repack
from qt_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string(
        "input", "", "A TFDS dataset in TFRecord files: a version directory, or what holds them."
    )
    flags.DEFINE_string("output", "", "Where the copy goes; the version's directory is made in it.")


def main() -> None:
    if not (FLAGS.input and FLAGS.output):
        raise UserError("Give both --input=DATASET and --output=FOLDER.")
    path, records, size = repack.repack(FLAGS.input, FLAGS.output)
    print(f"{path}: {records} records, {size / 2**20:,.1f} MiB")
