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
from qt_jax.policy.programs import CACHE, JUDGED, Arrays, Program, image_name
from qt_jax.policy.runtime import Runtime
from qt_jax.specs import PolicySpec

FOLDER = "onnx"
"""Below the artefact."""
MAX_THREADS = 4
"""Of the default (of this project): cameras and drivers want cores too."""
MAX_CANDIDATES = 16
"""Of one call of `judge`, whose number is fixed; more take several calls (default of this project)."""


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
        written: folder of encode.onnx and decode.onnx, and of judge.onnx where it ranks candidates.
        capacity: see `Runtime`.
        threads: see `load`.

    Raises:
        UserError: if onnxruntime does not run a program, or it is of another policy.

    """

    def __init__(self, described: Folder, written: Path, capacity: int = 1, threads: int | None = None):
        super().__init__(described.spec, described.statistics, capacity)
        files = [written / f"{part}.onnx" for part in programs.parts(self.spec)]
        sessions = [_session(file, threads) for file in files]
        self._encode, self._decode, *self._judges = sessions
        encode, decode, *judge = map(_described, files, sessions)
        count = candidates_at_once(self.spec)
        programs.check(self.spec, described.network, encode, decode, judge[0] if judge else None, count)
        shapes = {name: shape for name, (_, shape) in decode.takes.items() if name.startswith(CACHE)}
        self._cache = {name: np.zeros((capacity, *shape), np.float32) for name, shape in shapes.items()}
        self._mask = np.zeros((capacity, self.spec.window), bool)
        self._actions = np.zeros((capacity, self.spec.window, self.spec.interface.decision.dims), np.int32)

    def forget_all(self) -> None:
        """Empties every window."""
        self._mask[:] = False

    def correct(self, episode: int, tokens: np.ndarray) -> None:
        """Says what was executed: see `Runtime.correct`."""
        self._actions[episode, -1] = tokens

    def _decide(self, episode: np.ndarray, images: dict, *inputs: Any) -> tuple[np.ndarray, ...]:
        *arrays, extra = inputs
        decoded = []
        for row, (index, state, instruction, is_first, executed) in enumerate(zip(episode, *arrays)):
            seen = {image_name(camera): image[row][None] for camera, image in images.items()}
            seen |= {"state": state[None], "instruction": instruction[None]}
            also = {name: values[row][None] for name, values in extra.items()}
            decoded.append(self._step(index, seen, is_first, executed, also))
        return tuple(np.concatenate(part) for part in zip(*decoded))

    def _step(
        self,
        index: int,
        inputs: dict[str, np.ndarray],
        is_first: bool,
        executed: np.ndarray,
        extra: dict[str, np.ndarray],
    ) -> list[np.ndarray]:
        """Decides one row, as `_decide` does, and moves the episode's window one frame on."""
        found = _run(self._decode, self._look(index, inputs | extra, is_first) | extra)
        decided = [found[name][:, list(self.spec.network_dims)] for name in programs.decided_by(self.spec)]
        self._actions[index, -1] = np.where(executed < 0, decided[0][0], executed)
        return decided

    def _judge(self, episode: np.ndarray, images: dict, *inputs: Any) -> tuple[np.ndarray, ...]:
        state, instruction, is_first, extra, tokens = inputs
        seen = {image_name(camera): image for camera, image in images.items()} | extra
        seen |= {"state": state, "instruction": instruction}
        window, size = self._look(episode[0], seen, is_first[0]), candidates_at_once(self.spec)
        judged = []
        for start in range(0, len(tokens), size):
            some = tokens[start : start + size]
            filled = np.pad(some, [(0, size - len(some)), (0, 0)])[None]
            found = _run(self._judges[0], window | {"candidates": filled})
            judged.append([found[name][0][: len(some), list(self.spec.network_dims)] for name in JUDGED])
        return tuple(np.concatenate(part) for part in zip(*judged))

    def _look(self, index: int, inputs: dict[str, np.ndarray], is_first: bool) -> dict[str, np.ndarray]:
        """Moves an episode's window one frame on, and returns it as `decode` and `judge` take it."""
        frame = _run(self._encode, inputs)
        for name, kept in self._cache.items():
            kept[index] = np.concatenate([kept[index, 1:], frame[name]])
        self._mask[index] = np.append(self._mask[index, 1:] & ~is_first, True)
        self._actions[index] = np.pad(self._actions[index, 1:], [(0, 1), (0, 0)])
        window = self._cache | {"mask": self._mask, "executed": self._actions}
        return {name: kept[index][None] for name, kept in window.items()}


def candidates_at_once(spec: PolicySpec) -> int:
    """Returns how many candidates `judge` takes; 0: the policy ranks none."""
    return min(spec.candidates, MAX_CANDIDATES)


def _session(file: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX programs need onnxruntime ({error}): pip install onnxruntime", topic="missing-package"
        ) from error
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
            "update it, or convert again with an older --opset.",
            topic="other-version",
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
