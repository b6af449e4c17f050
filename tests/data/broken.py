"""A dataset in the layout of `collect` whose episodes are each broken in one way.

`main(DIR)` writes it; in a process of its own, since it imports TensorFlow.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from tests.data import synthetic

LENGTH, SIZE = 4, 16
"""Transitions of each episode; record LENGTH is the last."""


def _set(t: int, key: str, value: Any) -> Callable[[dict], None]:
    return lambda episode: episode["steps"][t].update({key: value})


def _picture(t: int, data: bytes) -> Callable[[dict], None]:
    return lambda episode: episode["steps"][t]["observation"].update(front=io.BytesIO(data))


def _jpeg(height: int, width: int) -> bytes:
    return simplejpeg.encode_jpeg(synthetic.picture(np.random.default_rng(0), height, width))


def _broken_png() -> bytes:
    """A PNG with a damaged name of its second chunk of pixels, for which Pillow raises a SyntaxError."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE)).save(buffer, "png")
    pixels = zlib.compress(bytes(SIZE * (3 * SIZE + 1)))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return buffer.getvalue()[:33] + chunk(b"IDAT", pixels[:5]) + chunk(b"\xa41\xbbq", pixels[5:])


def _all(*changes: Callable[[dict], None]) -> Callable[[dict], None]:
    return lambda episode: [change(episode) for change in changes] and None


def _failure(episode: dict) -> None:
    episode["success"] = False
    _set(LENGTH, "is_terminal", False)(episode)


def _vector(value):
    return np.asarray([value, 0.5], np.float32)


BREAKS: dict[str, tuple[Callable[[dict], object], list[tuple[str, int | None]]]] = {
    # {name, which is the episode's id: (a change of a sound success, its violations: kind and step)}
    "sound": (lambda episode: None, []),
    "a sound failure": (_all(_failure, _set(3, "reward", 0.0)), []),
    "is_first missing": (_set(0, "is_first", False), [("is_first", 0)]),
    "is_first twice": (_set(2, "is_first", True), [("is_first", 2)]),
    "is_last missing": (_set(4, "is_last", False), [("is_last", 4)]),
    "is_last early": (
        _all(_set(4, "is_last", False), _set(3, "is_last", True)),
        [("is_last", 4), ("is_last", 3)],
    ),
    "is_terminal early": (_set(3, "is_terminal", True), [("is_terminal", 3)]),
    "a success is truncated": (_set(4, "is_terminal", False), [("is_terminal", 4)]),
    "a failure terminates": (
        _all(_failure, _set(3, "reward", 0.0), _set(4, "is_terminal", True)),
        [("is_terminal", 4)],
    ),
    "last action": (_set(4, "action", _vector(0.3)), [("last_record", 4)]),
    "reward at the arrival": (_all(_set(3, "reward", 0.0), _set(4, "reward", 1.0)), [("reward", 4)]),
    "reward early": (_all(_set(3, "reward", 0.0), _set(1, "reward", 1.0)), [("reward", 1)]),
    "reward twice": (_set(2, "reward", 1.0), [("reward", 2)]),
    "reward missing": (_set(3, "reward", 0.0), [("reward", 3)]),
    "reward of a failure": (_failure, [("reward", 3)]),
    "shaped reward": (_set(1, "reward", 0.25), []),
    "NaN action": (_set(2, "action", _vector(np.nan)), [("not_finite", 2)]),
    "infinite state": (
        lambda e: e["steps"][4]["observation"].update(state=_vector(np.inf)),
        [("not_finite", 4)],
    ),
    "NaN reward": (_set(1, "reward", np.nan), [("reward", 1), ("not_finite", 1)]),
    "NaN embedding": (
        lambda e: e.update(instruction_embedding=np.full(4, np.nan, np.float32)),
        [("not_finite", None)],
    ),
    "zero embedding": (
        lambda e: e.update(instruction_embedding=np.zeros(4, np.float32)),
        [("embedding", None)],
    ),
    "no instruction": (lambda e: e.update(instruction=" "), [("instruction", None)]),
    "no time": (lambda e: e.update(dt=0.0), [("dt", None)]),
    "another time": (lambda e: e.update(dt=0.2), [("dt", None)]),
    "unknown task": (lambda e: e.update(task="fly"), [("unusable", None)]),
    "no transition": (lambda e: e.update(steps=e["steps"][-1:]), [("shape", None)]),
    "image of another size": (_picture(2, _jpeg(SIZE, 20)), [("image", 2)]),
    "truncated image": (_picture(3, _jpeg(SIZE, SIZE)[:-40]), [("image", 3)]),
    "damaged PNG": (_picture(1, _broken_png()), [("image", 1)]),
    "no image": (_picture(0, b"nonsense"), [("image", 0)]),
    "beyond the bounds": (_all(_set(0, "action", _vector(-1.5)), _set(1, "action", _vector(1.5))), []),
}


def _sound(name: str) -> dict:
    return {
        "steps": [
            {
                "observation": {"state": np.float32([t, 0]), "front": io.BytesIO(_jpeg(SIZE, SIZE))},
                "action": _vector(t / 10) if t < LENGTH else np.zeros(2, np.float32),
                "reward": float(t == LENGTH - 1), "discount": 1.0,
                **synthetic.flags(t, LENGTH + 1), "is_terminal": t == LENGTH,
            }
            for t in range(LENGTH + 1)
        ],
        "episode_id": name, "task": "push", "collector": "noise", "success": True, "dt": 0.1,
        "instruction": "push the cube", "instruction_embedding": np.ones(4, np.float32),
    }  # fmt: skip


def broken(tfds):
    """Features and episodes of `BREAKS`."""
    vector = tfds.features.Tensor(shape=(2,), dtype=np.float32)
    front = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    features = synthetic.collected_features(tfds, {"state": vector, "front": front}, action_dims=2)
    episodes = []
    for name, (change, _) in BREAKS.items():
        episode = _sound(name)
        change(episode)
        episodes.append(episode)
    return features, episodes


def main(root: str) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    synthetic.write(tfds, f"{root}/broken", *broken(tfds))
