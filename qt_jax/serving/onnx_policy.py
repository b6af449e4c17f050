"""The artefact's policy on onnxruntime, for robots without jax: numpy and onnxruntime are enough (`pip install --no-deps qt_jax`).

`Sessions(onnx_policy.load(folder), embed)` of serving/sessions.py keeps episodes, and tells windows anew under a new instruction.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.serving.folder import Folder
from qt_jax.serving.runtime import Runtime
from qt_jax.specs import PolicySpec
from qt_jax.statistics import Statistics

FOLDER, PARTS, CACHE = "onnx", ("encode", "decode"), "cache."
"""Below the artefact; its programs; how the names of what a frame is remembered by begin."""


def load(path: str, slots: int = 1) -> OnnxPolicy:
    """The policy of an artefact to which `python -m qt_jax onnx` added its programs.

    Raises:
        UserError: if there is none, a file is missing or was changed, or onnxruntime does not run a program.
    """
    folder = Folder.open(path)
    if FOLDER not in folder.about:
        raise UserError(f"{path} holds no ONNX programs; add them with `python -m qt_jax onnx --artefact={path}`.")
    return OnnxPolicy(folder.spec, folder.statistics, folder.path / FOLDER, slots)


class OnnxPolicy(Runtime):
    """A `Runtime` of `slots` episodes, each with its own window. The programs are of one row, so a call's rows run one after the other.

    Args:
        programs: folder of encode.onnx and decode.onnx.
    """

    def __init__(self, spec: PolicySpec, statistics: Statistics, programs: Path, slots: int = 1):
        super().__init__(spec, statistics, slots)
        self._encode, self._decode = (_session(programs / f"{part}.onnx", part) for part in PARTS)
        shapes = {node.name: node.shape[1:] for node in self._decode.get_inputs() if node.name.startswith(CACHE)}
        self._cache = {name: np.zeros((slots, *shape), np.float32) for name, shape in shapes.items()}
        self._mask = np.zeros((slots, spec.window), bool)
        self._actions = np.zeros((slots, spec.window, spec.action.dims), np.int32)

    def forget_all(self) -> None:
        self._mask[:] = False

    def _decide(self, slot: np.ndarray, images: dict, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        decoded = []
        for row, (episode, state, instruction, is_first, executed) in enumerate(zip(slot, *inputs)):
            seen = {image_name(camera): image[row][None] for camera, image in images.items()}
            seen |= {"state": state[None], "instruction": instruction[None]}
            decoded.append(self._step(episode, is_first, executed, seen))
        tokens, scores = (np.concatenate(part) for part in zip(*decoded))
        return tokens, scores

    def _step(self, slot: int, is_first: bool, executed: np.ndarray, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Tokens [1, D] and scores [1, D, N]; the slot's window goes one frame on."""
        frame = _run(self._encode, inputs)
        for name, kept in self._cache.items():
            kept[slot] = np.concatenate([kept[slot, 1:], frame[name]])
        self._mask[slot] = np.append(self._mask[slot, 1:] & ~is_first, True)
        self._actions[slot] = np.pad(self._actions[slot, 1:], [(0, 1), (0, 0)])
        window = self._cache | {"mask": self._mask, "executed": self._actions}
        found = _run(self._decode, {name: kept[slot][None] for name, kept in window.items()})
        tokens, scores = (found[name][:, list(self.spec.slots)] for name in ("tokens", "scores"))
        self._actions[slot, -1] = np.where(executed < 0, tokens[0], executed)
        return [tokens, scores]


def image_name(camera: str) -> str:
    """Of `encode`'s input."""
    return f"images.{camera}"


def _session(path: Path, part: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"ONNX programs need onnxruntime ({error}): pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # constants that it folds away are no one's business
    try:
        return onnxruntime.InferenceSession(path, options)
    except Exception as error:  # whatever onnxruntime raises
        raise UserError(f"onnxruntime {onnxruntime.__version__} does not run the part {part!r}: {' '.join(str(error).split())}") from error


def _run(session: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{output: value}; a program takes of the inputs what it uses."""
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {node.name: inputs[node.name] for node in session.get_inputs()})))
