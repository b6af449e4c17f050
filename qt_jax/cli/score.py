"""`score`: writes a copy of a dataset with the value of each step, by networks that did not see the episode.

It trains a network for each fold of the episodes on all other folds, as `train` does, and goes on where it
was stopped. Several processes share the work of looking: each is given a --part once the networks are there.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from qt_jax import front_door
from qt_jax.curation.score import judge
from qt_jax.curation.score.scored import Scored
from qt_jax.errors import UserError
from qt_jax.training import checkpoints, datasets
from qt_jax.training.checkpoint_errors import only_once

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines what is scored, by how many networks, and where the copy goes."""
    flags.DEFINE_string(
        "data", "", "A dataset that describes itself, or a LeRobot folder. [config.data.mixture]"
    )
    flags.DEFINE_string("dataset", "", "Of config.data.mixture: the one that is scored; all train.")
    flags.DEFINE_string("output", "", "Where the copy goes.")
    folds = "So many networks, each trained on all of the folds but one, and kept in config.workdir."
    flags.DEFINE_integer("folds", 2, folds, lower_bound=2)
    flags.DEFINE_string("part", "", "K/N: look at every N-th file from K on, and do not write.")


def main(config: Any) -> None:
    """Trains what is not trained yet, looks, and writes the copy."""
    if not FLAGS.output:
        raise UserError("Give --output=FOLDER, where the copy goes.")
    if FLAGS.data:
        config.data.mixture, config.data.path = datasets.COLLECTED, FLAGS.data
    part, parts = _part(FLAGS.part)
    configs = [judge.of_fold(config, fold, FLAGS.folds) for fold in range(FLAGS.folds)]
    only_once()
    for own in configs:
        if checkpoints.finished(own):
            continue
        if FLAGS.part:
            raise UserError(f"{own.workdir} is not trained yet; run `score` without --part first.")
        front_door.train(own)
    entries = datasets.entries(config)
    scored = Scored([judge.Judge.load(own, entries) for own in configs], FLAGS.dataset, FLAGS.output)
    count = scored.look(part, parts)
    if FLAGS.part:
        print(f"looked at {count} files; {scored.missing()} are left")
        return
    print(scored.write())


def _part(text: str) -> tuple[int, int]:
    if not text:
        return 0, 1
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
        raise UserError(f"--part is {text!r}; expected K/N with K from 0 to N - 1, such as 0/4.")
    return int(part), int(parts)
