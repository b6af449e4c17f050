"""RLDS' conventions: how an episode departs from them, by its dataset's `DatasetSpec`.

`data.episodes.read` stops at the first thing that training cannot use. These checks look at the whole
episode, with what training ignores: a stored reward, the action of the last record. Steps are record numbers:
0 is the first record, R - 1 the last.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from qt_jax.data.images import decode
from qt_jax.data.specs import DatasetSpec
from qt_jax.data.standardisers import Standardised
from qt_jax.data.video import BadImage, Clip
from qt_jax.errors import first_line

Departures = Iterator[tuple[str, int | None, str]]
"""(kind, step or None for the whole episode, what is wrong)."""

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
"""{kind: what it means}."""


def departures(
    example: dict[str, Any], raw: Standardised, spec: DatasetSpec, embedding_used: bool
) -> Departures:
    """Yields all departures of an episode whose shapes are good; does not look at the images.

    Args:
        example: the record as stored.
        raw: the record as the dataset's standardiser returns it.
        spec: of the dataset.
        embedding_used: whether training takes the stored embeddings.
    """
    yield from _flags(raw)
    yield from _terminal(example, raw, spec)
    yield from _last_action(raw, spec)
    yield from _rewards(raw, spec)
    yield from _numbers(raw, spec)
    yield from _words(raw, embedding_used)


def instruction_change(example: dict[str, Any]) -> int | None:
    """Returns the first record whose instruction is not the first record's; None if there is none.

    Looks under every key with "instruction" in it; a record with an empty one is passed over.
    """
    steps = example["steps"]
    for key, values in (steps | dict(steps.get("observation", {}))).items():
        if "instruction" in key and len(values):
            first = np.asarray(values[0])
            for step, value in enumerate(values):
                if np.any(value) and not np.array_equal(first, value):
                    return step
    return None


def content(raw: Standardised, spec: DatasetSpec) -> bytes:
    """Returns a digest of an episode's actions, states and encoded images; of videos their lengths alone."""
    action = np.asarray(raw.action, np.float32)[: transitions(raw, spec)]
    digest = hashlib.blake2b(action.tobytes(), digest_size=16)
    if spec.observation.state_dim:
        digest.update(np.asarray(raw.state, np.float32).tobytes())
    for camera in spec.observation.cameras:
        frames = raw.images[camera]
        for image in [str(len(frames)).encode()] if isinstance(frames, Clip) else frames:
            digest.update(image)
    return digest.digest()


def shapes(raw: Standardised, spec: DatasetSpec) -> Departures:
    """Yields where the shapes and numbers of records are not as the spec says; all else counts on them."""
    count, observation = len(raw.is_last), spec.observation
    if count < 1 + (spec.last_record == "observation"):
        yield "shape", None, f"has {count} records, no transition"
        return

    expected = {"is_first": (count,), "is_last": (count,), "action": (count, spec.action.dims)}
    expected |= {"state": (count, observation.state_dim)} if observation.state_dim else {}
    expected |= {"reward": (count,)} if raw.reward is not None else {}
    for name, shape in expected.items():
        found = np.shape(getattr(raw, name))
        if found != shape:
            yield "shape", None, f"{name} is {list(found)}, the spec says {list(shape)}"

    there, cameras = sorted(raw.images), list(observation.cameras)
    for camera in cameras:
        if camera not in raw.images:
            yield "shape", None, f"has images of {there}, the spec says {cameras}"
        elif len(raw.images[camera]) != count:
            yield "shape", None, f"has {len(raw.images[camera])} images {camera!r} at {count} records"


def _flags(raw: Standardised) -> Departures:
    last = len(raw.is_last) - 1
    for name, place, where in (("is_first", 0, "the first record"), ("is_last", last, "the last record")):
        flags = np.asarray(getattr(raw, name), bool)
        if not flags[place]:
            yield name, place, f"is False at {where}"
        for step in np.flatnonzero(flags):
            if step != place:
                yield name, int(step), f"is True, expected at {where}, {place}, alone"


def _terminal(example: dict[str, Any], raw: Standardised, spec: DatasetSpec) -> Departures:
    """Reads the flags as stored, under RLDS' own name: standardisers keep only the last record's."""
    last = len(raw.is_last) - 1
    flags = np.asarray(example["steps"].get("is_terminal", []), bool).reshape(-1)
    for step in np.flatnonzero(flags[:last]):
        yield "is_terminal", int(step), f"is True before the last record, {last}"

    expected = {"success": raw.success, "demonstrations": True, "stored": raw.terminal}[spec.reward]
    if raw.terminal is not None and expected is not None and raw.terminal != expected:
        found = f"is {raw.terminal} at the last record of a {'success' if expected else 'failure'}"
        yield "is_terminal", last, f"{found}, expected {expected} by the spec's {spec.reward!r}"


def _last_action(raw: Standardised, spec: DatasetSpec) -> Departures:
    action = np.asarray(raw.action, np.float32)[-1]
    zero, step = not np.any(action != 0), len(raw.is_last) - 1
    if spec.last_record == "observation" and not zero:
        expected = "expected zeros beside o_T; is the spec's last_record 'transition'?"
        yield "last_record", step, f"has the action {_short(action)}, {expected}"
    if spec.last_record == "transition" and zero:
        expected = "expected a transition; is the spec's last_record 'observation'?"
        yield "last_record", step, f"has an action of zeros, {expected}"


def _rewards(raw: Standardised, spec: DatasetSpec) -> Departures:
    if raw.reward is None or spec.reward == "demonstrations":
        return
    reward, last = np.asarray(raw.reward, np.float32), len(raw.is_last) - 1
    arrival = spec.reward == "stored" and spec.reward_at == "arrival"
    # `empty`: the record at which no reward can stand; `due`: the one of the last transition's reward.
    empty = 0 if arrival else last if spec.last_record == "observation" else None
    due = last if arrival or spec.last_record == "transition" else last - 1

    paid = np.flatnonzero(reward)
    if empty is not None and empty in paid:
        where = "the first record, before any action" if arrival else "the last record, which holds o_T alone"
        expected = f"expected at record {due}, if the episode ends there"
        yield "reward", empty, f"is {reward[empty]:g} at {where}; {expected}"
        paid = paid[paid != empty]
        if not len(paid):
            return

    if not sparse(raw):
        return
    first = int(paid[0]) if len(paid) else due
    if len(paid) == 1 and raw.success and first != due:
        yield (
            "reward",
            first,
            f"is the only one of a success, expected at record {due}, of the last transition",
        )
    elif spec.reward == "success" and raw.success and not len(paid):
        yield "reward", due, "is 0 throughout a success, expected 1 here"
    elif spec.reward == "success" and raw.success and len(paid) > 1:
        found = f"is paid {len(paid)} times, at records {_short(paid)}"
        yield "reward", first, f"{found}; expected once, at record {due}"
    elif spec.reward == "success" and raw.success is False and len(paid):
        yield "reward", first, f"is {reward[first]:g} in a failed episode, expected none"


def _numbers(raw: Standardised, spec: DatasetSpec) -> Departures:
    used = transitions(raw, spec)  # the last record's action has no meaning where it holds o_T alone
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


def _words(raw: Standardised, embedding_used: bool) -> Departures:
    if not raw.instruction.strip():
        yield "instruction", None, "is empty"
    if embedding_used and raw.embedding is not None and not np.any(raw.embedding):
        yield "embedding", None, "is all zeros"


def pictures(
    camera: str, decoded: Iterable[tuple[tuple[int, ...], str]], size: tuple[int, int]
) -> Departures:
    """Yields which images of a camera do not decode, or have another size than the spec says.

    Args:
        camera: its name.
        decoded: `decoded_shapes` of the images.
        size: the spec's (height, width).
    """
    for step, (shape, problem) in enumerate(decoded):
        if problem:
            yield "image", step, f"{camera!r} does not decode ({problem})"
        elif shape != size:
            found = f"{shape[0]} x {shape[1]}"
            yield "image", step, f"{camera!r} is {found}, the spec says {size[0]} x {size[1]}"


def decoded_shapes(frames: Sequence[Any], pool: Any) -> Iterable[tuple[tuple[int, ...], str]]:
    """Yields of each image or frame of a video its (height, width) and "", or () and why it does not decode.

    A video is decoded in one go; its first bad frame is the last that is looked at.

    Args:
        frames: encoded images, or a `Clip`.
        pool: of threads.
    """
    if not isinstance(frames, Clip):
        yield from pool.map(_decoded_shape, frames)
        return
    try:
        yield from ((pixels.shape[:2], "") for pixels in frames.frames())
    except BadImage as error:
        yield (), str(error)


def _decoded_shape(image: bytes) -> tuple[tuple[int, ...], str]:
    try:
        return decode(image).shape[:2], ""
    except Exception as error:  # Pillow's are of many kinds, a SyntaxError among them
        return (), first_line(error)


def sparse(raw: Standardised) -> bool:
    """Returns whether all rewards that are finite are 0 or 1."""
    reward = np.asarray([] if raw.reward is None else raw.reward)
    return bool(np.isin(reward[np.isfinite(reward)], (0.0, 1.0)).all())


def transitions(raw: Standardised, spec: DatasetSpec) -> int:
    """Returns how many of the records hold a transition."""
    return len(raw.is_last) - (spec.last_record == "observation")


def _short(values: np.ndarray) -> str:
    values = np.asarray(values)
    if values.ndim == 0:
        return f"{values:g}"
    more = ", ..." if len(values) > 8 else ""
    return f"[{', '.join(f'{value:.4g}' for value in values[:8])}{more}]"
