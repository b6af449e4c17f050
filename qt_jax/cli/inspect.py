"""`inspect`: what is in a config's datasets, opened as `train` opens them: a table each, and a page with
contact sheets.
"""

from __future__ import annotations

from typing import Any

import ml_collections
from absl import flags

from qt_jax import storage
from qt_jax.curation import dataset_page, dataset_rerun, dataset_summary, shown_episodes
from qt_jax.training import datasets, setup

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("data", "", "A dataset that `collect` or `convert` wrote; then no --config.")
    flags.DEFINE_string("dataset", "", "This dataset of the tables alone. [all of config.data.mixture]")
    flags.DEFINE_integer(
        "episodes", 3, "So many of each kind (demonstrations, successes, failures) are shown.", lower_bound=0
    )
    flags.DEFINE_string("output", "runs/inspect", "Where NAME.html goes.")
    flags.DEFINE_string(
        "rerun", "", "A file such as episodes.rrd: the shown episodes, whole, for the Rerun viewer."
    )


def main(config: Any | None) -> None:
    config = datasets.select(config, FLAGS.data, FLAGS.dataset)
    recording = dataset_rerun.Recording(FLAGS.rerun) if FLAGS.rerun else None
    frozen = ml_collections.FrozenConfigDict(config)
    _, recipe, _ = setup.prepare(frozen, datasets.entries(config), any_returns=True)
    folder = storage.directory(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    for source in recipe.mixture.sources:
        found = dataset_summary.summary(recipe, source)
        print(dataset_summary.text(found).rstrip())
        shown = shown_episodes.read(recipe, source, FLAGS.episodes)
        page = folder / f"{source.name}.html"
        page.write_text(
            dataset_page.render(source, found, shown, recipe.mixture.interface.observation.image_size)
        )
        print(f"  page: {page}\n")
        for one in shown if recording else ():
            recording.add(source.name, one, source.action)
    if recording:
        recording.close()
        print(f"recording: {FLAGS.rerun}")
