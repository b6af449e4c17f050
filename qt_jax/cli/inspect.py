"""`inspect`: what is in a config's datasets, opened as `train` opens them: a text and a page of each."""

from __future__ import annotations

from typing import Any

import ml_collections
from absl import flags

from qt_jax.cli import dataset_flags
from qt_jax.curation import dataset_rerun
from qt_jax.curation.inspect import inspect
from qt_jax.training import datasets, setup

FLAGS = flags.FLAGS
_FOLDER = "runs/inspect"


def define_flags() -> None:
    """Defines which datasets to show, how many episodes, and where the pages go."""
    dataset_flags.define()
    episodes = "So many of each kind (demonstrations, successes, failures) are shown."
    flags.DEFINE_integer("episodes", 3, episodes, lower_bound=0)
    dataset_flags.define_output(_FOLDER, "NAME.html")
    videos = "Write an mp4 of each shown episode and camera, beside the page."
    flags.DEFINE_boolean("videos", False, videos)
    rerun = "A file such as episodes.rrd: the shown episodes, whole, for the Rerun viewer."
    flags.DEFINE_string("rerun", "", rerun)


def main(config: Any | None) -> None:
    """Prints a summary of each dataset, and writes the pages."""
    config = dataset_flags.select(config)
    recording = dataset_rerun.Recording(FLAGS.rerun) if FLAGS.rerun else None
    frozen = ml_collections.FrozenConfigDict(config)
    _, recipe, _ = setup.prepare(frozen, datasets.entries(config), any_returns=True)
    pages = dataset_flags.output(_FOLDER)
    for text in inspect(recipe, pages, FLAGS.episodes, recording, FLAGS.videos):
        print(text)
    if recording is not None:
        recording.close()
        print(f"recording: {FLAGS.rerun}")
