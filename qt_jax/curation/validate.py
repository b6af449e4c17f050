"""Streams a dataset's records and says where each departs from RLDS' conventions, from its `DatasetSpec`, or
cannot be read at all.

`episodes.read` stops at the first thing that training cannot use; here each episode is looked at whole, what
training ignores (a stored reward, the action of the last record) and every image included. Steps are record
numbers: 0 is the first record, R - 1 the last.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from qt_jax.curation.duplicates import Duplicates
from qt_jax.data import episodes, outliers, records
from qt_jax.data.outliers import Extremes
from qt_jax.data.records import BadRecord, BadShard, Directory, Shard
from qt_jax.data.samples import SAMPLES, Samples
from qt_jax.data.segments import decode
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.standardisers import Standardised
from qt_jax.discretization import beyond
from qt_jax.errors import UserError

IMAGES = ("all", "first", "none")
KINDS = {
    "shard": "a file ends too early or cannot be read further",
    "record": "a record is damaged",
    "key": "a key that the standardiser reads is missing, or its value is not as expected there",
    "shape": "actions, states, rewards or images of another shape or number than the spec says",
    "is_first": "not set at exactly the first record",
    "is_last": "not set at exactly the last record",
    "is_terminal": "set before the last record, or against the episode's success",
    "last_record": "the last record is not what the spec's last_record says",
    "reward": "a reward stands where the spec or the episode's success has none",
    "not_finite": "NaN or Inf",
    "dt": "the time of an action is not positive, or not the expected one",
    "instruction": "the instruction is empty",
    "embedding": "the stored embedding, which training would use, is zero",
    "image": "does not decode, or has another size than the spec says",
    "unusable": "training refuses the episode for another reason",
}
"""Of violations: what each says."""


@dataclasses.dataclass(frozen=True)
class Violation:
    """episode: its place in the shard. step: a record of it; None: all of it (an unreadable shard has no
    episode either).
    """

    kind: str
    shard: str
    text: str
    episode: int | None = None
    episode_id: str = ""
    step: int | None = None


_Found = Iterator[tuple[str, int | None, str]]
"""(kind, step, text)."""


@dataclasses.dataclass
class Validator:
    """A pass over one dataset.

    images: which of an episode to decode, one of `IMAGES`. embedding_used: training takes the stored
    embeddings. threads: that decode. validation_fraction: as training has it, to tell duplicates on both
    sides.

    Counted along: steps: transitions; below, above: [D] actions beyond the spec's bounds; shaped: episodes
    with rewards other than 0, 1.
    """

    directory: Directory
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

    def violations(self, tick: Callable[[], object]) -> Iterator[Violation]:
        """All, in order; `tick` is called after each episode."""
        with concurrent.futures.ThreadPoolExecutor(max(1, self.threads)) as pool:
            for shard in self.directory.shards:
                try:
                    for place, (_, record) in enumerate(records.scan(shard, self.cache)):
                        self.episodes += 1
                        for kind, step, text, identity in self._episode(record, shard, place, pool):
                            yield Violation(kind, shard.name, text, place, identity, step)
                        tick()
                except BadShard as error:
                    yield Violation("shard", shard.name, str(error))

    def warnings(self) -> list[str]:
        """What breaks no convention but is worth a look, after the pass."""
        action, lines, steps = self.spec.action, [], max(1, self.steps)
        for name, low, high, below, above in zip(
            action.names, action.low, action.high, self.below / steps, self.above / steps
        ):
            if below or above:
                lines.append(
                    f"action {name}: {below:.2%} below its bound {low:g}, {above:.2%} above {high:g}; they go to the edge bins"
                )
        if self.steps:
            lines += outliers.lines(action, self._samples.rows("action"), self._extremes.of)
        lines += self._duplicates.lines()
        if self._changes:
            more = f", and {len(self._changes) - 1} more" if len(self._changes) > 1 else ""
            lines.append(f"{self._changes[0]}: the instruction changes, the first is used{more}")
        if self.shaped:
            lines.append(
                f"{self.shaped} episodes have rewards other than 0 and 1, which the spec's reward='success' ignores"
            )
        return lines

    def _episode(
        self, record: bytes | BadRecord, shard: Shard, place: int, pool: Any
    ) -> Iterator[tuple[str, int | None, str, str]]:
        """(kind, step, text, the episode's id)."""
        try:
            if isinstance(record, BadRecord):
                raise record
            example = self.directory.parse(record)
        except BadRecord as error:
            yield "record", None, str(error), ""
            return
        reader = self.spec.reader
        try:
            raw = self.spec.standardise(example)
        except KeyError as error:
            yield "key", None, f"has no key {error}, which {reader} reads", ""
            return
        except (
            Exception
        ) as error:  # whatever a standardiser, a user's own too, makes of data that it was not written for
            yield "key", None, f"{reader} fails on it ({type(error).__name__}: {str(error)[:200]})", ""
            return
        if raw is None:
            self.left_out += 1
            return
        found = list(_shapes(raw, self.spec))
        if not found:  # the rest counts on the shapes
            self._remember(raw, shard, place)
            if (step := _change(example)) is not None:
                self._changes.append(f"{_place(raw, shard, place)}, step {step}")
            found = list(self._look(example, raw, pool))
        if not found:  # what training refuses is a violation, whether a check here knows it or not
            try:
                episodes.read(example, self.spec, 0.0)
            except (BadRecord, UserError) as error:
                found = [("unusable", getattr(error, "step", None), str(error))]
        for kind, step, text in found:
            yield kind, step, text, raw.episode_id

    def _remember(self, raw: Standardised, shard: Shard, place: int) -> None:
        """What is told after the pass."""
        action = np.asarray(raw.action, np.float32)[: _transitions(raw, self.spec)]
        self.steps += len(action)
        below, above = beyond(self.spec.action, action)
        self.below, self.above = self.below + below.sum(axis=0), self.above + above.sum(axis=0)
        named = _place(raw, shard, place)
        self._samples.add(len(action), {"action": action})
        self._extremes.add(action, named)
        held_out = episodes.id_hash(raw.episode_id or f"{shard.name}/{place}") < self.validation_fraction
        if self._own_split:
            held_out = shard.split != "train"
        self._duplicates.add(_content(raw, self.spec), named, raw.instruction, held_out)

    def _look(self, example: dict[str, Any], raw: Standardised, pool: Any) -> _Found:
        self.shaped += self.spec.reward == "success" and not _sparse(raw)
        yield from _flags(raw)
        yield from _terminal(example, raw, self.spec)
        yield from _last_action(raw, self.spec)
        yield from _rewards(raw, self.spec)
        yield from _numbers(raw, self.spec)
        yield from _words(raw, self.embedding_used)
        for camera in self.spec.observation.cameras if self.images != "none" else ():
            encoded = raw.images[camera][: 1 if self.images == "first" else None]
            self.decoded += len(encoded)
            yield from _pictures(camera, pool.map(_decoded_shape, encoded), self.spec.observation.image_size)


def _place(raw: Standardised, shard: Shard, place: int) -> str:
    return f"{shard.name}, episode {place}" + (f" ({raw.episode_id})" if raw.episode_id else "")


def _change(example: dict[str, Any]) -> int | None:
    """The first record with another instruction than the first has, under any key with that word in it.

    Records without one are passed over.
    """
    steps = example["steps"]
    for key, values in (steps | dict(steps.get("observation", {}))).items():
        if "instruction" in key and len(values):
            first = np.asarray(values[0])
            for step, value in enumerate(values):
                if np.any(value) and not np.array_equal(first, value):
                    return step
    return None


def _content(raw: Standardised, spec: DatasetSpec) -> bytes:
    """A digest of what the robot saw and did: of an episode's actions, states and encoded images."""
    digest = hashlib.blake2b(
        np.asarray(raw.action, np.float32)[: _transitions(raw, spec)].tobytes(), digest_size=16
    )
    if spec.observation.state_dim:
        digest.update(np.asarray(raw.state, np.float32).tobytes())
    for camera in spec.observation.cameras:
        for image in raw.images[camera]:
            digest.update(image)
    return digest.digest()


def _shapes(raw: Standardised, spec: DatasetSpec) -> _Found:
    count, observation = len(raw.is_last), spec.observation
    if count < 1 + (spec.last_record == "observation"):
        yield "shape", None, f"has {count} records, no transition"
        return
    expected = {"is_first": (count,), "is_last": (count,), "action": (count, spec.action.dims)}
    expected |= {"state": (count, observation.state_dim)} if observation.state_dim else {}
    expected |= {"reward": (count,)} if raw.reward is not None else {}
    for name, shape in expected.items():
        if np.shape(getattr(raw, name)) != shape:
            yield (
                "shape",
                None,
                f"{name} is {list(np.shape(getattr(raw, name)))}, the spec says {list(shape)}",
            )
    for camera in observation.cameras:
        if camera not in raw.images:
            yield (
                "shape",
                None,
                f"has images of {sorted(raw.images)}, the spec says {list(observation.cameras)}",
            )
        elif len(raw.images[camera]) != count:
            yield "shape", None, f"has {len(raw.images[camera])} images {camera!r} at {count} records"


def _flags(raw: Standardised) -> _Found:
    last = len(raw.is_last) - 1
    for name, place, where in (("is_first", 0, "the first record"), ("is_last", last, "the last record")):
        flags = np.asarray(getattr(raw, name), bool)
        if not flags[place]:
            yield name, place, f"is False at {where}"
        for step in np.flatnonzero(flags):
            if step != place:
                yield name, int(step), f"is True, expected at {where}, {place}, alone"


def _terminal(example: dict[str, Any], raw: Standardised, spec: DatasetSpec) -> _Found:
    """Read as stored, under RLDS' own name: standardisers keep the last record's alone."""
    last = len(raw.is_last) - 1
    flags = np.asarray(example["steps"].get("is_terminal", []), bool).reshape(-1)
    for step in np.flatnonzero(flags[:last]):
        yield "is_terminal", int(step), f"is True before the last record, {last}"
    expected = {"success": raw.success, "demonstrations": True, "stored": raw.terminal}[spec.reward]
    if raw.terminal is not None and expected is not None and raw.terminal != expected:
        outcome = "success" if expected else "failure"
        yield (
            "is_terminal",
            last,
            f"is {raw.terminal} at the last record of a {outcome}, expected {expected} by the spec's {spec.reward!r}",
        )


def _last_action(raw: Standardised, spec: DatasetSpec) -> _Found:
    action = np.asarray(raw.action, np.float32)[-1]
    zero, step = not np.any(action != 0), len(raw.is_last) - 1
    if spec.last_record == "observation" and not zero:
        yield (
            "last_record",
            step,
            f"has the action {_short(action)}, expected zeros beside o_T; is the spec's last_record 'transition'?",
        )
    if spec.last_record == "transition" and zero:
        yield (
            "last_record",
            step,
            "has an action of zeros, expected a transition; is the spec's last_record 'observation'?",
        )


def _rewards(raw: Standardised, spec: DatasetSpec) -> _Found:
    """`empty`: the record at which no reward can stand; `due`: the one where the last transition's stands."""
    if raw.reward is None or spec.reward == "demonstrations":
        return
    reward, last = np.asarray(raw.reward, np.float32), len(raw.is_last) - 1
    arrival = spec.reward == "stored" and spec.reward_at == "arrival"
    empty = 0 if arrival else last if spec.last_record == "observation" else None
    due = last if arrival or spec.last_record == "transition" else last - 1
    paid = np.flatnonzero(reward)
    if empty in paid:
        where = "the first record, before any action" if arrival else "the last record, which holds o_T alone"
        yield (
            "reward",
            int(empty),
            f"is {reward[empty]:g} at {where}; expected at record {due}, if the episode ends there",
        )
        paid = paid[paid != empty]
        if not len(paid):
            return
    if not _sparse(raw):
        return
    if len(paid) == 1 and raw.success and paid[0] != due:
        yield (
            "reward",
            int(paid[0]),
            f"is the only one of a success, expected at record {due}, of the last transition",
        )
    elif spec.reward == "success" and raw.success and not len(paid):
        yield "reward", due, "is 0 throughout a success, expected 1 here"
    elif spec.reward == "success" and raw.success and len(paid) > 1:
        yield (
            "reward",
            int(paid[0]),
            f"is paid {len(paid)} times, at records {_short(paid)}; expected once, at record {due}",
        )
    elif spec.reward == "success" and raw.success is False and len(paid):
        yield "reward", int(paid[0]), f"is {reward[paid[0]]:g} in a failed episode, expected none"


def _numbers(raw: Standardised, spec: DatasetSpec) -> _Found:
    used = _transitions(raw, spec)  # the last record's action means nothing where it holds o_T alone
    values = {"action": raw.action[:used], "reward": raw.reward}
    values |= {"state": raw.state} if spec.observation.state_dim else {}
    for name, value in values.items():
        value = np.asarray([] if value is None else value, np.float64)
        for step in np.unique(np.argwhere(~np.isfinite(value))[:, :1]):
            yield "not_finite", int(step), f"{name} is {_short(value[step])}"
    if raw.embedding is not None and not np.isfinite(raw.embedding).all():
        yield "not_finite", None, "the stored embedding"
    dt = spec.dt if spec.dt is not None else raw.dt
    expected = (spec.expected_dt or {}).get(raw.task or raw.instruction)
    if dt is None or not (math.isfinite(dt) and dt > 0):
        yield "dt", None, f"is {dt}, expected a positive time"
    elif expected is not None and not math.isclose(dt, expected, rel_tol=1e-4):
        yield "dt", None, f"is {dt:g} s, expected {expected:g} s"


def _words(raw: Standardised, embedding_used: bool) -> _Found:
    if not raw.instruction.strip():
        yield "instruction", None, "is empty"
    if embedding_used and raw.embedding is not None and not np.any(raw.embedding):
        yield "embedding", None, "is all zeros"


def _pictures(camera: str, decoded: Iterable[tuple[tuple[int, ...], str]], size: tuple[int, int]) -> _Found:
    for step, (shape, problem) in enumerate(decoded):
        if problem:
            yield "image", step, f"{camera!r} does not decode ({problem})"
        elif shape != size:
            yield "image", step, f"{camera!r} is {shape[0]} x {shape[1]}, the spec says {size[0]} x {size[1]}"


def _decoded_shape(image: bytes) -> tuple[tuple[int, ...], str]:
    try:
        return decode(image).shape[:2], ""
    except Exception as error:  # Pillow's are of many kinds, a SyntaxError among them
        return (), (str(error).splitlines() or [type(error).__name__])[0][:200]


def _sparse(raw: Standardised) -> bool:
    reward = np.asarray([] if raw.reward is None else raw.reward)
    return bool(np.isin(reward[np.isfinite(reward)], (0.0, 1.0)).all())


def _transitions(raw: Standardised, spec: DatasetSpec) -> int:
    return len(raw.is_last) - (spec.last_record == "observation")


def _short(values: np.ndarray) -> str:
    values = np.asarray(values)
    if values.ndim == 0:
        return f"{values:g}"
    return (
        "[" + ", ".join(f"{value:.4g}" for value in values[:8]) + (", ..." if len(values) > 8 else "") + "]"
    )
