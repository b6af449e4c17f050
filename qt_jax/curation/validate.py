"""Streams a dataset's records and finds where each departs from RLDS' conventions, or cannot be read."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tqdm
from etils import epath

from qt_jax.curation import conventions
from qt_jax.curation.conventions import KINDS
from qt_jax.curation.duplicates import Duplicates
from qt_jax.data import directories, episodes, index, outliers
from qt_jax.data.outliers import Extremes
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.data.specs import DatasetSpec, bounded
from qt_jax.data.standardisers import Standardised
from qt_jax.data.stored import BadRecord, BadShard, Stored
from qt_jax.data.tables import Entry
from qt_jax.discretization import beyond
from qt_jax.errors import UserError
from qt_jax.specs import ActionSpec

IMAGES = ("all", "first", "none")


@dataclasses.dataclass(frozen=True)
class Violation:
    """A departure from the conventions.

    Attributes:
        kind: one of `conventions.KINDS`.
        shard: the file.
        text: what is wrong.
        episode: its place in the shard; None where the shard cannot be read.
        episode_id: its name in the dataset; "" where it has none.
        step: a record of it; None: the whole episode.
    """

    kind: str
    shard: str
    text: str
    episode: int | None = None
    episode_id: str = ""
    step: int | None = None

    def __str__(self) -> str:
        place = self.shard
        if self.episode is not None:
            identity = f" ({self.episode_id})" if self.episode_id else ""
            place += f", episode {self.episode}{identity}"
        if self.step is not None:
            place += f", step {self.step}"
        return f"{place}: {self.text}"


@dataclasses.dataclass
class Validator:
    """A pass over one dataset.

    Attributes:
        directory: the dataset's files.
        spec: the dataset's.
        images: which of an episode's images to decode, one of `IMAGES`.
        embedding_used: whether training takes the stored embeddings.
        threads: that decode.
        cache: where files of a bucket are kept.
        validation_fraction: as training has it, to find duplicates on both sides of the split.
        episodes: how many were read.
        left_out: episodes that the standardiser leaves out.
        steps: transitions.
        decoded: images.
        shaped: episodes with rewards other than 0 and 1.
    """

    directory: Stored
    spec: DatasetSpec
    images: str
    embedding_used: bool
    threads: int
    cache: str
    validation_fraction: float = 0.0
    episodes: int = 0
    left_out: int = 0
    steps: int = 0
    decoded: int = 0
    shaped: int = 0

    def __post_init__(self):
        self.below, self.above = np.zeros((2, self.spec.action.dims), np.int64)
        self._duplicates, self._extremes = Duplicates(), Extremes(self.spec.action.dims)
        self._samples, self._own_split = Samples(SAMPLES), self.directory.own_validation().any()
        self._changes: list[str] = []
        self._doubts: list[str] = []

    def violations(self, tick: Callable[[], object]) -> Iterator[Violation]:
        """Yields all violations in order; calls `tick` after each episode."""
        with concurrent.futures.ThreadPoolExecutor(max(1, self.threads)) as pool:
            for number, shard in enumerate(self.directory.shards):
                try:
                    for place, (_, record) in enumerate(self.directory.scan(number, self.cache)):
                        self.episodes += 1
                        file, episode = self.directory.lies(number, place)
                        for kind, step, text, identity in self._episode(record, number, place, pool):
                            yield Violation(kind, file, text, episode, identity, step)
                        tick()
                except BadShard as error:
                    yield Violation("shard", shard.name, str(error))

    def warnings(self) -> list[str]:
        """Returns what breaks no convention but is worth a look, after the pass."""
        action, lines, steps = self._action(), [], max(1, self.steps)
        shares = zip(self.below / steps, self.above / steps)
        for name, low, high, (below, above) in zip(action.names, action.low, action.high, shares):
            if below or above:
                lines.append(
                    f"action {name}: {below:.2%} below its bound {low:g}, {above:.2%} above {high:g}; they "
                    "go to the edge bins"
                )
        if self.steps:
            lines += outliers.lines(action, self._samples.rows("action"), self._extremes.of)
        lines += self._duplicates.lines()
        if self._changes:
            more = f", and {len(self._changes) - 1} more" if len(self._changes) > 1 else ""
            lines.append(f"{self._changes[0]}: the instruction changes, the first is used{more}")
        if self._doubts:
            more = f", and {len(self._doubts) - 1} more" if len(self._doubts) > 1 else ""
            lines.append(self._doubts[0] + more)
        if self.shaped:
            lines.append(
                f"{self.shaped} episodes have rewards other than 0 and 1, which the spec's reward='success' "
                "ignores"
            )
        return lines

    def _action(self) -> ActionSpec:
        """Returns the action with its bounds: the spec's, or those of what was read."""
        if self.spec.bounds == "spec":
            return self.spec.action
        low, high = np.nan_to_num(
            self._extremes.bounds(), posinf=0.0, neginf=0.0
        )  # of a dim without a number
        return bounded(self.spec.action, low, high)

    def _episode(
        self, record: bytes | BadRecord, number: int, place: int, pool: Any
    ) -> Iterator[tuple[str, int | None, str, str]]:
        """Yields (kind, step, text, the episode's id)."""
        try:
            if isinstance(record, BadRecord):
                raise record
            example = self.directory.parse(record)
        except BadRecord as error:
            yield "record", error.step, str(error), ""
            return

        reader = self.spec.reader
        try:
            raw = self.spec.standardise(example)
        except BadRecord as error:
            yield "unusable", error.step, str(error), ""
            return
        except KeyError as error:
            yield "key", None, f"has no key {error}, which {reader} reads", ""
            return
        except Exception as error:  # of any kind: a standardiser may be a user's own
            yield "key", None, f"{reader} fails on it ({type(error).__name__}: {str(error)[:200]})", ""
            return
        if raw is None:
            self.left_out += 1
            return

        found = list(conventions.shapes(raw, self.spec))
        if not found:  # the rest counts on the shapes
            named = self._named(raw, number, place)
            self._remember(raw, number, place, named)
            if (step := conventions.instruction_change(example)) is not None:
                self._changes.append(f"{named}, step {step}")
            found = list(self._look(example, raw, pool))
        if not found:  # all that training refuses is a violation
            try:
                episodes.read(example, self.spec, 0.0)
            except (BadRecord, UserError) as error:
                found = [("unusable", getattr(error, "step", None), str(error))]
            else:
                doubts = self.directory.doubts(number, place) if self.images != "none" else []
                self._doubts += [f"{named}: {doubt}" for doubt in doubts]
        for kind, step, text in found:
            yield kind, step, text, raw.episode_id

    def _named(self, raw: Standardised, number: int, place: int) -> str:
        file, episode = self.directory.lies(number, place)
        return f"{file}, episode {episode}" + (f" ({raw.episode_id})" if raw.episode_id else "")

    def _remember(self, raw: Standardised, number: int, place: int, named: str) -> None:
        """Adds an episode to what `warnings` looks at."""
        action = np.asarray(raw.action, np.float32)[: conventions.transitions(raw, self.spec)]
        self.steps += len(action)
        if self.spec.bounds == "spec":  # else none is beyond them
            below, above = beyond(self.spec.action, action)
            self.below, self.above = self.below + below.sum(axis=0), self.above + above.sum(axis=0)
        shard = self.directory.shards[number]
        self._samples.add(len(action), {"action": action})
        self._extremes.add(action, named)
        held_out = episodes.id_hash(raw.episode_id or f"{shard.name}/{place}") < self.validation_fraction
        if self._own_split:
            held_out = shard.split != "train"
        self._duplicates.add(conventions.content(raw, self.spec), named, raw.instruction, held_out)

    def _look(self, example: dict[str, Any], raw: Standardised, pool: Any) -> conventions.Departures:
        self.shaped += self.spec.reward == "success" and not conventions.sparse(raw)
        yield from conventions.departures(example, raw, self.spec, self.embedding_used)
        if self.images == "none":
            return
        for camera in self.spec.observation.cameras:
            encoded = raw.images[camera][: 1 if self.images == "first" else None]
            self.decoded += len(encoded)
            shapes = conventions.decoded_shapes(encoded, pool)
            yield from conventions.pictures(camera, shapes, self.spec.stored_size(camera))


def validate(entry: Entry, settings: Any, path: epath.Path, images: str, limit: int) -> tuple[int, str]:
    """Validates a dataset; writes each violation to a file as soon as it is found, a line of JSON each.

    Args:
        entry: the dataset.
        settings: `config.data` of the training that would read it.
        path: the file.
        images: which images of an episode to decode, one of `IMAGES`.
        limit: how many violations of each kind the report has.

    Returns:
        The number of violations, and the report.
    """
    directory = directories.open_dataset(entry.spec.path)
    validator = Validator(
        directory=directory,
        spec=entry.spec,
        images=images,
        embedding_used=index.stored_encoder(directory, entry.spec) == settings.text_encoder,
        threads=settings.read_threads,
        cache=settings.cache,
        validation_fraction=settings.validation_fraction,
    )
    counts: Counter[str] = Counter()
    examples: dict[str, list[Violation]] = {}

    path.parent.mkdir(parents=True, exist_ok=True)
    total = sum(shard.examples for shard in directory.shards)
    with path.open("w") as file, tqdm.tqdm(total=total, desc=entry.name, unit="episode") as bar:
        for violation in validator.violations(lambda: bar.update()):
            file.write(json.dumps({"dataset": entry.name, **dataclasses.asdict(violation)}) + "\n")
            counts[violation.kind] += 1
            if len(kept := examples.setdefault(violation.kind, [])) < limit:
                kept.append(violation)

    read = f"{validator.episodes} episodes, {validator.steps} steps, {validator.decoded} images decoded"
    lines = [f"{entry.name}: {directory.path}: {read}"]
    lines += [f"  {line}" for line in (*entry.spec.notes, *directory.splits())]
    if validator.left_out:
        reader = entry.spec.reader
        lines.append(f"  {validator.left_out} episodes are left out by {reader} and not looked at")
    for kind in filter(counts.get, KINDS):
        lines.append(f"  {kind}: {counts[kind]} ({KINDS[kind]})")
        lines += [f"    {violation}" for violation in examples[kind]]
        if counts[kind] > limit:
            lines.append(f"    ... {counts[kind] - limit} more")
    lines += [f"  worth a look: {warning}" for warning in validator.warnings()]
    lines.append(f"  {counts.total()} violations: {path}" if counts else "  no violation")
    return counts.total(), "\n".join(lines)
