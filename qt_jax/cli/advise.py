"""`advise`: whether failures will help: counts of a dataset, how far its values hold, and what to train.

A recommendation is made only where the rule behind it was better on the benchmark than one choice for all.
"""

from __future__ import annotations

from typing import Any

import ml_collections
from absl import flags

from qt_jax.cli import dataset_flags
from qt_jax.curation.advise import facts, rule, text
from qt_jax.data.loader import Recipe
from qt_jax.errors import UserError
from qt_jax.improvement import calibration
from qt_jax.training import checkpoints, datasets, setup
from qt_jax.training.assets import frozen_config

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines which datasets are looked at, and whose values of them."""
    dataset_flags.define()
    run = "A run, in place of --config and --data: its data, and its values of the episodes it held out."
    flags.DEFINE_string("run", "", run)


def main(config: Any | None) -> None:
    """Prints the counts of each dataset, the calibration of a run's values, and the recommendation."""
    if FLAGS.run:
        if config is not None or FLAGS.data or FLAGS.dataset:
            raise UserError(
                "--run has a config and data of its own; give it without --config, --data and --dataset."
            )
        saved = checkpoints.load_assets(FLAGS.run).config
        config = ml_collections.ConfigDict(frozen_config(saved))
        config.workdir = FLAGS.run
    else:
        config = dataset_flags.select(config)
    frozen = ml_collections.FrozenConfigDict(config)
    frozen, recipe, assets = setup.prepare(frozen, datasets.entries(config), any_returns=not FLAGS.run)
    if FLAGS.run:
        checkpoints.check_same_run(FLAGS.run, assets)
    rules = rule.load()
    for source in recipe.mixture.sources:
        found = facts.of_source(recipe, source)
        lines = [*text.counts(found), "", *text.advice(found, *rules)]
        print(f"{source.name}: {source.directory.path}")
        print("\n".join(f"  {line}".rstrip() for line in lines))
    if FLAGS.run:
        print("\n".join(_values(frozen, recipe)))


def _values(config: Any, recipe: Recipe) -> list[str]:
    """Returns what the run's values say of the episodes that it held out, and what came of them."""
    held_out = [source.validation for source in recipe.mixture.sources]
    count = sum(map(len, held_out))
    if not count:
        return [f"values: {config.workdir} held out no episode; train with config.data.validation_fraction"]
    found = calibration.measure(config, recipe, config.workdir, held_out)
    if found is None:
        return [f"values: {config.agent.name} has no values of actions"]
    auc = "" if found["auc"] is None else f"; AUC of the first step's Q against success {found['auc']:.3f}"
    return [
        f"values: by {config.workdir}, of {count} held-out episodes{auc}",
        *(
            f"  of each {outcome}: Q {found['q'][outcome]:.3f}, less the return {bias:+.3f}"
            for outcome, bias in found["bias"].items()
        ),
        *(f"  Q {q:.3f}: return {value:.3f} ({steps:,} steps)" for q, value, steps in found["bins"]),
    ]
