"""`validate`: every violation of RLDS' conventions in a config's datasets, by episode and step.

Exit status 1 if there is any.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from typing import Any

import tqdm
from absl import flags

from qt_jax import storage
from qt_jax.curation.validate import IMAGES, KINDS, Validator, Violation
from qt_jax.data import index, records
from qt_jax.data.tables import Entry
from qt_jax.errors import EXIT_VIOLATIONS
from qt_jax.training import datasets

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("data", "", "A dataset that `collect` or `convert` wrote; then no --config.")
    flags.DEFINE_string("dataset", "", "This dataset of the tables alone. [all of config.data.mixture]")
    flags.DEFINE_enum("images", "all", IMAGES, "Which images of an episode are decoded.")
    flags.DEFINE_integer(
        "limit", 20, "So many violations of a kind are printed; all are in the file.", lower_bound=0
    )
    flags.DEFINE_string("output", "runs/validate", "Where NAME.jsonl goes, a violation a line.")


def main(config: Any | None) -> None:
    config = datasets.select(config, FLAGS.data, FLAGS.dataset)
    if not all([_sound(entry, config.data) for entry in datasets.entries(config)]):
        raise SystemExit(EXIT_VIOLATIONS)


def _sound(entry: Entry, settings: Any) -> bool:
    """Streams a dataset: what is found goes into the file at once, and only what is printed is kept."""
    directory = records.open_directory(entry.spec.path)
    validator = Validator(
        directory, entry.spec, FLAGS.images, index.stored_encoder(directory, entry.spec) == settings.text_encoder,
        settings.read_threads, settings.cache, settings.validation_fraction,
    )  # fmt: skip
    path = storage.directory(FLAGS.output) / f"{entry.name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    examples: dict[str, list[Violation]] = {}
    total = sum(shard.examples for shard in directory.shards)
    with path.open("w") as file, tqdm.tqdm(total=total, desc=entry.name, unit="episode") as bar:
        for violation in validator.violations(lambda: bar.update()):
            file.write(json.dumps({"dataset": entry.name, **dataclasses.asdict(violation)}) + "\n")
            counts[violation.kind] += 1
            if len(kept := examples.setdefault(violation.kind, [])) < FLAGS.limit:
                kept.append(violation)
    print(
        f"{entry.name}: {directory.path}: {validator.episodes} episodes, {validator.steps} steps, {validator.decoded} images decoded"
    )
    for line in directory.splits():
        print(f"  {line}")
    if validator.left_out:
        print(f"  {validator.left_out} episodes are left out by {entry.spec.reader} and not looked at")
    for kind in filter(counts.get, KINDS):
        print(f"  {kind}: {counts[kind]} ({KINDS[kind]})")
        for violation in examples[kind]:
            print(f"    {_line(violation)}")
        if counts[kind] > FLAGS.limit:
            print(f"    ... {counts[kind] - FLAGS.limit} more")
    for warning in validator.warnings():
        print(f"  worth a look: {warning}")
    print(f"  {sum(counts.values())} violations: {path}" if counts else "  no violation")
    return not counts


def _line(violation: Violation) -> str:
    place = violation.shard
    if violation.episode is not None:
        place += f", episode {violation.episode}" + (
            f" ({violation.episode_id})" if violation.episode_id else ""
        )
    if violation.step is not None:
        place += f", step {violation.step}"
    return f"{place}: {violation.text}"
