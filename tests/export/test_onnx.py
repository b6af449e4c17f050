"""The extra `onnx`, in the venv that `make .onnx/.installed` builds: the policy where there is no jax."""

import dataclasses
import json
import os
import stat
import subprocess

import pytest

from qt_jax.errors import UserError
from qt_jax.export import artefact
from qt_jax.policy import onnx_policy
from qt_jax.policy.artefact import load
from qt_jax.safety import SafetyLimits
from qt_jax.specs import Decoding
from tests import tiny
from tests.conftest import ROOT
from tests.export import onnx_robot
from tests.export.test_artefact import untrained

PYTHON, ROBOT = ROOT / ".onnx/bin/python", ROOT / ".robot/bin/python"
pytestmark = pytest.mark.slow

WITHOUT_JAX = (
    "import sys; sys.modules['jax'] = None; from tests.export import onnx_robot; onnx_robot.main(sys.argv[1])"
)
NO_CONVERTER = """
import jax, numpy as np, pathlib, sys
from qt_jax.errors import UserError
from qt_jax.export import onnx
number = jax.ShapeDtypeStruct((1,), np.float32)
squeeze = lambda x: jax.lax.squeeze(x, [0])
for opset, program in ((21, lambda x: jax.pure_callback(abs, number, x)), (12, squeeze), (99, abs)):
    try:
        onnx.convert("decode", program, {"x": number}, ["y"], opset, pathlib.Path(sys.argv[1]))
    except UserError as error:
        print("refused:", error)
"""
FORMATS = """
import onnx, sys
for path in sys.argv[1:]:
    model = onnx.load(path)
    print(model.ir_version, *[opset.version for opset in model.opset_import])
"""

OPERATIONS = "import onnx, sys; print({node.op_type for node in onnx.load(sys.argv[1]).graph.node})"


def umask() -> int:
    """Of this process."""
    now = os.umask(0)
    os.umask(now)
    return now


def run(*arguments, python=PYTHON):
    assert python.exists(), f"run `make {python.parts[-3]}/.installed` first, as `make test-slow` does"
    result = subprocess.run(
        [str(python), *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_robot_without_jax_acts_as_the_artefact_does(trained, tmp_path):
    folder = str(tmp_path / "policy")
    artefact.write(trained.workdir, folder)
    with pytest.raises(UserError, match="add them with `python -m qt_jax onnx"):
        onnx_policy.load(folder)
    programs = [f"{folder}/onnx/{part}.onnx" for part in ("encode", "decode")]
    for flags, format in ((["--opset=17"], "8 17"), ([], "9 20")):  # the second in the place of the first
        assert "agrees with the artefact in" in run("-m", "qt_jax", "onnx", f"--artefact={folder}", *flags)
        assert run("-c", FORMATS, *programs).splitlines() == [format] * 2
    opened = load(folder)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in opened.path.rglob("*") if file.is_file()}
    assert modes == {0o666 & ~umask()}
    agreement = opened.about["onnx"]["agreement"]
    assert (
        agreement["max_difference"] <= agreement["tolerance"]
        and agreement["other_bins"] <= agreement["ties"] < 1
    )
    assert json.loads(run("-c", WITHOUT_JAX, folder)) == onnx_robot.episode(opened.policy())
    (tmp_path / "policy/onnx/decode.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="decode.onnx was changed or damaged"):
        onnx_policy.load(folder)


def test_a_robot_without_jax_knows_what_it_executed_of_its_past_chunks_and_the_step(tmp_path):
    folder, config = str(tmp_path / "policy"), tiny.get_config("decision_transformer")
    config.model.chunk, config.model.execute, config.agent.timesteps = 3, 2, 4
    config.model.scan_layers = True  # a loop, which ONNX's programs unroll
    params, assets = untrained(config)
    origin = {"workdir": "", "step": 0}
    limits = SafetyLimits.from_json({"dims": {name: {"low": 0.4} for name in ("x", "y", "z")}})
    artefact.build(params, assets, folder, origin, decoding=Decoding("beam", 2), limits=limits)
    run("-m", "qt_jax", "onnx", f"--artefact={folder}")
    opened = load(folder)
    found = onnx_robot.episode(opened.policy())
    for python in (PYTHON, ROBOT):
        assert json.loads(run("-c", WITHOUT_JAX, folder, python=python)) == found
    free = dataclasses.replace(opened, spec=dataclasses.replace(opened.spec, limits=None))
    assert onnx_robot.episode(free.policy()) != found  # which saw what the limits made of its actions


def test_a_lower_precision_acts_on_the_oldest_onnxruntime(tmp_path):
    """On that of `make .robot/.installed`, 1.17, as on the newest."""
    folder, params_and_assets = str(tmp_path / "policy"), untrained(tiny.get_config())
    artefact.build(*params_and_assets, folder, {"workdir": "", "step": 0})
    sizes, operations = {}, {}
    for precision in ("float16", "int8"):
        printed = run("-m", "qt_jax", "onnx", f"--artefact={folder}", f"--precision={precision}")
        assert f"MiB, {precision}, opset 20" in printed and "of dims chose the same bin" in printed
        programs = [tmp_path / f"policy/onnx/{part}.onnx" for part in ("encode", "decode")]
        assert run("-c", FORMATS, *programs).splitlines() == ["9 20"] * 2
        operations[precision] = [run("-c", OPERATIONS, program) for program in programs]
        sizes[precision] = [program.stat().st_size for program in programs]
        newest, oldest = (json.loads(run("-c", WITHOUT_JAX, folder, python=p)) for p in (PYTHON, ROBOT))
        assert newest == oldest
    assert ["ConvInteger" in found for found in operations["int8"]] == [True, False]
    assert sizes["float16"][1] < sizes["int8"][1]  # whose decode.onnx stays in float32
    opened = load(folder)
    assert opened.about["onnx"]["dtype"] == "int8" and opened.about["onnx"]["agreement"]["good_bins"] >= 0.95


def test_what_does_not_convert_is_named(tmp_path):
    printed = run("-c", NO_CONVERTER, tmp_path / "decode.onnx").splitlines()
    operation, old, unknown = [line.partition(": ")[2] for line in printed if line.startswith("refused: ")]
    part = "The part 'decode' of the policy"
    assert operation == f"{part} does not convert to ONNX: jax's operation 'pure_callback' has no converter."
    assert old.startswith(f"{part} cannot be written in ONNX's opset 12 (") and "an --opset from 13 to" in old
    assert unknown.startswith(f"{part} cannot be written in ONNX's opset 99 (")
