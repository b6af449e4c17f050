"""The policy on onnxruntime, or on one of ours that only says what is in a program."""

import dataclasses
import subprocess
import sys
import types

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy import onnx_policy
from qt_jax.policy.folder import seal
from tests.conftest import ROOT
from tests.policy.test_folder import about


def test_the_onnx_runtime_needs_no_jax():
    """Beside import-linter's contract, which does not see what a package imports for itself."""
    modules = "qt_jax.policy.onnx_policy, qt_jax.policy.sessions, qt_jax.policy.folder"
    script = f"import sys; sys.modules['jax'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


@dataclasses.dataclass
class Node:
    name: str
    type: str
    shape: list[int]


class Options:
    def __init__(self):
        self.entries = {}

    def add_session_config_entry(self, key, value):
        self.entries[key] = value


class Runtime(types.ModuleType):
    """What is asked of onnxruntime, and the programs of tests/policy/test_folder.py's policy."""

    __version__ = "0"

    def __init__(self):
        super().__init__("onnxruntime")
        self.asked = []
        image, state = (
            Node("images.front", "tensor(uint8)", [1, 32, 32, 3]),
            Node("state", "tensor(float)", [1, 3]),
        )
        text, cache = Node("instruction", "tensor(float)", [1, 8]), Node("cache.0", "tensor(float)", [1, 5])
        self.encode = [image, state, text], [cache]
        window, mask = Node("cache.0", "tensor(float)", [1, 4, 5]), Node("mask", "tensor(bool)", [1, 4])
        done, scores = (
            Node("executed", "tensor(int32)", [1, 4, 2]),
            Node("scores", "tensor(float)", [1, 3, 16]),
        )
        self.decode = [window, mask, done], [Node("tokens", "tensor(int32)", [1, 3]), scores]

    SessionOptions = Options

    def InferenceSession(self, file, options):
        if not file.read_bytes():
            raise RuntimeError("no model\nat all")
        self.asked.append(options)
        takes, gives = getattr(self, file.stem)
        return types.SimpleNamespace(get_inputs=lambda: takes, get_outputs=lambda: gives)


@pytest.fixture
def runtime(monkeypatch):
    runtime = Runtime()
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    return runtime


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "onnx").mkdir()
    for part in ("encode", "decode"):
        (tmp_path / "onnx" / f"{part}.onnx").write_bytes(b"a program")
    seal(tmp_path, about() | {"onnx": {}})
    return tmp_path


def test_its_threads_rest_between_control_steps_and_their_number_is_a_setting(folder, runtime, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16))
    for given, threads in (({}, 4), ({"threads": 1}, 1), ({"threads": 9}, 9)):
        onnx_policy.load(str(folder), **given)
        assert [options.intra_op_num_threads for options in runtime.asked[-2:]] == [threads] * 2
    for options in runtime.asked:
        assert options.entries == {
            "session.intra_op.allow_spinning": "0",
            "session.inter_op.allow_spinning": "0",
        }
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2))
    onnx_policy.load(str(folder))
    assert runtime.asked[-1].intra_op_num_threads == 2
    with pytest.raises(UserError, match="threads is 0; give 1 or more"):
        onnx_policy.load(str(folder), threads=0)


def test_the_window_sees_what_was_executed(folder, runtime, monkeypatch):
    policy, seen = onnx_policy.load(str(folder)), []

    def run(session, inputs):
        if "cache.0" not in inputs:
            return {"cache.0": np.zeros((1, 5), np.float32)}
        seen.append(inputs["executed"][0].tolist())
        return {"tokens": np.asarray([[7, 0, 1]]), "scores": np.zeros((1, 3, 16), np.float32)}

    monkeypatch.setattr(onnx_policy, "_run", run)
    images = {"front": np.zeros((1, 32, 32, 3), np.uint8)}
    inputs = images, np.zeros((1, 3), np.float32), np.zeros((1, 8), np.float32)
    for step in range(3):
        policy.act(np.zeros(1, int), *inputs, np.asarray([step == 0]))
        if step == 1:
            policy.correct(0, np.asarray([2, 0]))
    assert seen[-1] == [[0, 0], [7, 1], [2, 0], [0, 0]]


@pytest.mark.parametrize(
    "part, side, node, words",
    [
        (
            "encode",
            0,
            Node("state", "tensor(float)", [1, 7]),
            "encode.onnx takes state float32[7], the rest of the policy says state float32[3]",
        ),
        (
            "encode",
            0,
            Node("images.front", "tensor(float)", [1, 32, 32, 3]),
            "encode.onnx takes images.front float32[32, 32, 3]",
        ),
        (
            "encode",
            1,
            Node("cache.0", "tensor(float)", [1, 6]),
            "decode.onnx takes cache.0 float32[4, 5], the rest of the policy says cache.0 float32[4, 6]",
        ),
        ("decode", 0, Node("executed", "tensor(int32)", [1, 4, 3]), "decode.onnx takes executed int32[4, 3]"),
        (
            "decode",
            1,
            Node("scores", "tensor(float)", [1, 3, 256]),
            "decode.onnx gives scores float32[3, 256]",
        ),
    ],
)
def test_programs_of_another_policy_are_refused_before_they_act(folder, runtime, part, side, node, words):
    nodes = getattr(runtime, part)[side]
    nodes[[one.name for one in nodes].index(node.name)] = node
    with pytest.raises(UserError) as caught:
        onnx_policy.load(str(folder))
    assert words in str(caught.value) and "of two exports" in str(caught.value)


def test_a_program_that_is_damaged_or_that_onnxruntime_does_not_run_is_named(folder, runtime):
    (folder / "onnx" / "decode.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="decode.onnx was changed or damaged .it is empty."):
        onnx_policy.load(str(folder))
    seal(folder, about() | {"onnx": {}})
    with pytest.raises(
        UserError,
        match="onnxruntime 0 does not run .*decode.onnx .no model at all.; update it, or convert again",
    ):
        onnx_policy.load(str(folder))
    seal(folder, about())
    with pytest.raises(UserError, match="holds no ONNX programs; add them with `python -m qt_jax onnx"):
        onnx_policy.load(str(folder))
