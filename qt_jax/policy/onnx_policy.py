"""The artefact's policy on onnxruntime, for robots without jax.

numpy and onnxruntime are enough: `pip install --no-deps qt_jax`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy import programs
from qt_jax.policy.folder import Folder
from qt_jax.policy.programs import CACHE, PARTS, Arrays, Program, image_name
from qt_jax.policy.runtime import Runtime

FOLDER = "onnx"
"""Below the artefact."""
MAX_THREADS = 4
"""Of the default (of this project): cameras and drivers want cores too."""


def load(path: str, capacity: int = 1, threads: int | None = None) -> OnnxPolicy:
    """Loads the policy of an artefact to which `python -m qt_jax onnx` added its programs.

    Args:
        path: the artefact's folder.
        capacity: see `Runtime`.
        threads: that a control step runs on; between two steps they rest. Default: as many as there are cores
            that this process may use, 4 at most.

    Raises:
        UserError: if there is none, a file is missing or was changed, or onnxruntime does not run a program.

    """
    folder = Folder.open(path)
    if FOLDER not in folder.about:
        raise UserError(
            f"{path} holds no ONNX programs; add them with `python -m qt_jax onnx --artefact={path}`."
        )
    return OnnxPolicy(folder, folder.path / FOLDER, capacity, threads)


class OnnxPolicy(Runtime):
    """A `Runtime` of `capacity` episodes, each with its own window.

    The programs are of one row, so a call's rows run one after the other.

    Args:
        described: whose specs and statistics the programs have.
        written: folder of encode.onnx and decode.onnx.
        capacity: see `Runtime`.
        threads: see `load`.

    Raises:
        UserError: if onnxruntime does not run a program, or it is of another policy.

    """

    def __init__(self, described: Folder, written: Path, capacity: int = 1, threads: int | None = None):
        super().__init__(described.spec, described.statistics, capacity)
        files = [written / f"{part}.onnx" for part in PARTS]
        self._encode, self._decode = (_session(file, threads) for file in files)
        encode, decode = _described(files[0], self._encode), _described(files[1], self._decode)
        programs.check(self.spec, described.network, encode, decode)
        shapes = {name: shape for name, (_, shape) in decode.takes.items() if name.startswith(CACHE)}
        self._cache = {name: np.zeros((capacity, *shape), np.float32) for name, shape in shapes.items()}
        self._mask = np.zeros((capacity, self.spec.window), bool)
        self._actions = np.zeros((capacity, self.spec.window, self.spec.interface.action.dims), np.int32)

    def forget_all(self) -> None:
        """Empties every window."""
        self._mask[:] = False

    def _decide(self, episode: np.ndarray, images: dict, *inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        *arrays, extra = inputs
        decoded = []
        for row, (index, state, instruction, is_first, executed) in enumerate(zip(episode, *arrays)):
            seen = {image_name(camera): image[row][None] for camera, image in images.items()}
            seen |= {"state": state[None], "instruction": instruction[None]}
            also = {name: values[row][None] for name, values in extra.items()}
            decoded.append(self._step(index, seen, is_first, executed, also))
        tokens, scores = (np.concatenate(part) for part in zip(*decoded))
        return tokens, scores

    def _step(
        self,
        index: int,
        inputs: dict[str, np.ndarray],
        is_first: bool,
        executed: np.ndarray,
        extra: dict[str, np.ndarray],
    ) -> list[np.ndarray]:
        """Computes tokens [1, D] and scores [1, D, N], and moves the episode's window one frame on."""
        frame = _run(self._encode, inputs | extra)
        for name, kept in self._cache.items():
            kept[index] = np.concatenate([kept[index, 1:], frame[name]])
        self._mask[index] = np.append(self._mask[index, 1:] & ~is_first, True)
        self._actions[index] = np.pad(self._actions[index, 1:], [(0, 1), (0, 0)])
        window = self._cache | {"mask": self._mask, "executed": self._actions}
        found = _run(self._decode, {name: kept[index][None] for name, kept in window.items()} | extra)
        tokens, scores = (found[name][:, list(self.spec.network_dims)] for name in ("tokens", "scores"))
        self._actions[index, -1] = np.where(executed < 0, tokens[0], executed)
        return [tokens, scores]


def _session(file: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"ONNX programs need onnxruntime ({error}): pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # constants that it folds away are no one's business
    options.intra_op_num_threads = _threads(threads)
    for pool in ("intra_op", "inter_op"):  # whose threads would keep their cores busy between two steps
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(file, options)
    except Exception as error:  # whatever onnxruntime raises
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} does not run {file} ({' '.join(str(error).split())}); "
            "update it, or convert again with an older --opset."
        ) from error


def _threads(wanted: int | None) -> int:
    if wanted is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(MAX_THREADS, cores)
    if wanted < 1:
        raise UserError(f"threads is {wanted}; give 1 or more, or None for one a core, to {MAX_THREADS}.")
    return wanted


def _described(file: Path, session: Any) -> Program:
    return Program(file, _rows(session.get_inputs()), _rows(session.get_outputs()))


def _rows(nodes: list[Any]) -> Arrays:
    """Leaves out the first axis, which is of one row."""
    kinds = {"tensor(float)": "float32"}
    return {
        n.name: (kinds.get(n.type, n.type.removeprefix("tensor(").removesuffix(")")), tuple(n.shape[1:]))
        for n in nodes
    }


def _run(session: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns {output: value}; a program takes of the inputs what it uses."""
    names = [node.name for node in session.get_outputs()]
    used = {node.name: inputs[node.name] for node in session.get_inputs()}
    return dict(zip(names, session.run(names, used)))
