"""The extra `onnx`, in the venv that `make .onnx/.installed` builds: the artefact's policy where there is no jax."""

import json
import subprocess

import pytest

from qt_jax.errors import UserError
from qt_jax.export import artefact
from qt_jax.serving import onnx_policy
from qt_jax.serving.artefact import load
from tests import tiny
from tests.conftest import ROOT
from tests.export import onnx_robot
from tests.export.test_artefact import untrained

PYTHON = ROOT / ".onnx/bin/python"
pytestmark = pytest.mark.slow

WITHOUT_JAX = "import sys; sys.modules['jax'] = None; from tests.export import onnx_robot; onnx_robot.main(sys.argv[1])"
NO_CONVERTER = """
import jax, numpy as np, pathlib, sys
from qt_jax.errors import UserError
from qt_jax.export import onnx
number = jax.ShapeDtypeStruct((1,), np.float32)
try:
    onnx.convert("decode", lambda x: jax.pure_callback(abs, number, x), {"x": number}, ["y"], pathlib.Path(sys.argv[1]))
except UserError as error:
    print(error)
"""


def run(*arguments):
    assert PYTHON.exists(), "run `make .onnx/.installed` first, as `make test-slow` does"
    result = subprocess.run([str(PYTHON), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_robot_without_jax_acts_as_the_artefact_does(trained, tmp_path):
    folder = str(tmp_path / "policy")
    artefact.write(trained.workdir, folder)
    with pytest.raises(UserError, match="add them with `python -m qt_jax onnx"):
        onnx_policy.load(folder)
    for _ in range(2):  # a second time in the place of the first
        assert "agrees with the artefact in" in run("-m", "qt_jax", "onnx", f"--artefact={folder}")
    opened = load(folder)
    agreement = opened.about["onnx"]["agreement"]
    assert agreement["max_difference"] <= agreement["tolerance"] and agreement["other_bins"] <= agreement["ties"] < 1
    assert {"onnx/encode.onnx", "onnx/decode.onnx"} <= set(opened.about["sha256"])
    assert json.loads(run("-c", WITHOUT_JAX, folder)) == onnx_robot.episode(opened.policy())
    (tmp_path / "policy/onnx/decode.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="decode.onnx has sha256"):
        onnx_policy.load(folder)


def test_a_robot_without_jax_knows_its_past_actions(tmp_path):
    folder = str(tmp_path / "policy")
    artefact.build(*untrained(tiny.get_config("decision_transformer")), folder, {"workdir": "", "step": 0}, beam=2)
    run("-m", "qt_jax", "onnx", f"--artefact={folder}")
    assert json.loads(run("-c", WITHOUT_JAX, folder)) == onnx_robot.episode(load(folder).policy())


def test_what_does_not_convert_is_named(tmp_path):
    line = run("-c", NO_CONVERTER, tmp_path / "decode.onnx").strip().splitlines()[-1]
    assert line == "The part 'decode' of the policy does not convert to ONNX: jax's operation 'pure_callback' has no converter."
