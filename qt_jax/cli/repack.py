"""`repack`: TFRecord files as ArrayRecord files, in which `train` reads any episode at any time.

A LeRobot folder gets a row group an episode and, with --keyframes, videos that are faster to read.
"""

from __future__ import annotations

from absl import flags

from qt_jax.curation import repack, repack_lerobot
from qt_jax.data import lerobot
from qt_jax.errors import UserError

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what to copy, and where."""
    source = (
        "A TFDS dataset in TFRecord files (a version directory or the folder above), or a LeRobot folder."
    )
    flags.DEFINE_string("input", "", source)
    output = "Where the copy goes; the version's directory is made in it. LeRobot: the copy itself."
    flags.DEFINE_string("output", "", output)
    near = "LeRobot: encode the videos again, a key frame every so many frames. [they are copied]"
    flags.DEFINE_integer("keyframes", 0, near, lower_bound=0)


def main() -> None:
    """Repacks the dataset and prints its size."""
    if not (FLAGS.input and FLAGS.output):
        raise UserError("Give both --input=DATASET and --output=FOLDER.")
    if lerobot.is_folder(FLAGS.input):
        folder, episodes, size = repack_lerobot.repack(FLAGS.input, FLAGS.output, FLAGS.keyframes)
        print(f"{folder}: {episodes} episodes, {size / 2**20:,.1f} MiB")
        return
    if FLAGS.keyframes:
        raise UserError(f"--keyframes={FLAGS.keyframes} is for LeRobot's videos, and {FLAGS.input} has none.")
    path, records, size = repack.repack(FLAGS.input, FLAGS.output)
    print(f"{path}: {records} records, {size / 2**20:,.1f} MiB")
