"""An artefact's programs as ONNX, for robots without jax (policy/onnx_policy.py runs them).

Needs the extra `onnx`. The programs are traced again from the parameters and the network that policy.json
describes, for one row and with the parameters inside. They are in float32, because onnxruntime multiplies no
bfloat16 on a CPU, or in a precision that onnx_precision.py makes of it. jax2onnx gets jax's own operations
alone, not Flax.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import safetensors.numpy
from jax.extend.core import Literal

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.export import agreement, checkpoint_policy, onnx_precision
from qt_jax.export.artefact import replacing, unflattened
from qt_jax.policy import artefact
from qt_jax.policy.folder import seal
from qt_jax.policy.onnx_policy import FOLDER, OnnxPolicy, candidates_at_once
from qt_jax.policy.programs import CACHE, JUDGED, decided_by, image_name, parts
from qt_jax.training.assets import frozen_config

Inputs = dict[str, jax.ShapeDtypeStruct]


def write(path: str, opset: int, precision: str = "float32") -> dict[str, Any]:
    """Adds `onnx/` to an artefact, after comparing it with the artefact itself; returns its policy.json.

    Args:
        path: the artefact's folder.
        opset: version of ONNX's operations. The older, the older the onnxruntime that runs them.
        precision: of `onnx_precision.PRECISIONS`.

    Raises:
        UserError: if there is no artefact, a part does not convert (by name, with the operation) or not to
            this opset, or the two do not agree.

    """
    source = artefact.load(path)
    config = source.about["provenance"]["config"]
    reference = source.policy(min(source.batches or (1,)))
    with replacing(source.path) as work:
        shutil.copytree(source.path, work, ignore=shutil.ignore_patterns(FOLDER), dirs_exist_ok=True)
        (work / FOLDER).mkdir()
        _programs(source, config, opset, work / FOLDER)
        onnx_precision.lower(work / FOLDER, precision)
        policy = OnnxPolicy(source, work / FOLDER, reference.capacity)
        if precision == "float32":
            found = agreement.compare(reference, policy, config["model"]["dtype"])
        else:
            found = agreement.compare_rounded(reference, policy, precision)
        versions = {name: importlib.metadata.version(name) for name in ("jax2onnx", "onnx", "onnxruntime")}
        about = source.about | {"onnx": {"agreement": found, "dtype": precision, "opset": opset, **versions}}
        seal(work, about)
    return about


def _programs(source: artefact.Artefact, config: dict[str, Any], opset: int, output: Path) -> None:
    """Writes encode.onnx and decode.onnx."""
    spec = source.spec
    settings = ml_collections.ConfigDict(frozen_config(config))
    # Unrolled: in a loop jax2onnx leaves operations on constants that onnxruntime does not have.
    settings.model.update(dtype="float32", remat="none", encoder_remat="none", scan_layers=False)
    ensemble = agents.make_ensemble(settings, source.network)
    like = jax.eval_shape(ensemble.init, jax.random.key(0))
    params = unflattened(jax.device_put(safetensors.numpy.load_file(source.path / artefact.PARAMS)), like)
    made = checkpoint_policy.of_robot(settings, ensemble, spec, source.statistics)

    def struct(dtype, *shape):
        return jax.ShapeDtypeStruct((1, *shape), dtype)

    cameras = spec.interface.observation.cameras
    inputs = {
        image_name(camera): struct(np.uint8, *spec.interface.observation.image_size, 3) for camera in cameras
    }
    inputs |= {
        "state": struct(np.float32, spec.interface.observation.state_dim),
        "instruction": struct(np.float32, spec.interface.instruction_dim),
    }
    if spec.timesteps:
        inputs["step"] = struct(np.int32)

    def encode(*leaves):
        images, others = leaves[: len(cameras)], leaves[len(cameras) :]
        return made.encode(params, dict(zip(cameras, images)), *others)

    leaves, structure = jax.tree.flatten(jax.eval_shape(encode, *inputs.values()))
    caches = {f"{CACHE}{number}": leaf for number, leaf in enumerate(leaves)}
    window = {name: struct(leaf.dtype, spec.window, *leaf.shape[1:]) for name, leaf in caches.items()}

    def decode(*leaves):
        cache, others = leaves[: len(caches)], leaves[len(caches) :]
        return made.decode(params, jax.tree.unflatten(structure, cache), *others)

    def judge(*leaves):
        assert made.judge is not None  # the program of a policy that ranks candidates
        cache, others = leaves[: len(caches)], leaves[len(caches) :]
        return made.judge(params, jax.tree.unflatten(structure, cache), *others)

    window |= {
        "mask": struct(np.bool_, spec.window),
        "executed": struct(np.int32, spec.window, spec.interface.decision.dims),
    }
    dims = spec.interface.decision.dims
    drawn = {"uniforms": struct(np.float32, spec.decoding.count, dims)} if spec.decoding.draws else {}
    proposed = {"candidates": struct(np.int32, candidates_at_once(spec), dims)}
    programs = (
        (encode, inputs, list(caches)),
        (decode, window | drawn, list(decided_by(spec))),
        (judge, window | proposed, list(JUDGED)),
    )
    for part, (program, takes, gives) in zip(parts(spec), programs):
        convert(part, program, takes, gives, opset, output / f"{part}.onnx")


def convert(part: str, program: Callable, inputs: Inputs, outputs: list[str], opset: int, path: Path) -> None:
    """Writes a program as ONNX; large constants go to a file PATH.data beside it.

    Args:
        part: its name.
        program: a function of arrays.
        inputs: its arrays by name.
        outputs: names of the leaves of its result.
        opset: version of ONNX's operations.
        path: to write.

    Raises:
        UserError: naming the part and the operation that did not convert, or that the opset does not have.

    """
    try:
        import jax2onnx
        import onnx
    except ImportError as error:
        raise UserError(
            f"The export to ONNX needs jax2onnx ({error}); run `pip install 'qt_jax[onnx]'` in a venv of its "
            "own.",
            topic="missing-package",
        ) from error
    traced = jax.make_jaxpr(program)(*inputs.values())

    def replayed(*arrays):
        return tuple(_replay(traced.jaxpr, traced.consts, *arrays))

    names = {"input_names": list(inputs), "output_names": outputs}
    written = {"return_mode": "file", "output_path": path, "model_name": part, "opset": opset}
    try:
        jax2onnx.to_onnx(replayed, list(inputs.values()), **written, **names)
    except Exception as error:  # whatever a converter of one of some hundred operations raises
        why = " ".join(str(error).split()) or type(error).__name__
        if operation := re.search(r"primitive '(\w+)'", why):
            why = f"jax's operation {operation[1]!r} has no converter"
        raise UserError(f"The part {part!r} of the policy does not convert to ONNX: {why}.") from error
    try:
        model = onnx.load(path, load_external_data=False)
        # The oldest format that has the opset: a runtime that runs the one then reads the other.
        model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
        onnx.save(model, path)
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # the checker's, and what its parts raise
        why = str(error).splitlines()[0]
        raise UserError(
            f"The part {part!r} of the policy cannot be written in ONNX's opset {opset} ({why}); "
            f"give an --opset from 13 to {onnx.defs.onnx_opset_version()}."
        ) from error


def _replay(jaxpr: Any, consts: Any, *inputs: Any) -> list[Any]:
    """Computes a jaxpr's outputs with its calls inlined, and branches chosen where no input decides.

    Of a `platform_dependent` it takes the default.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs]))

    def read(variables):
        return [v.val if isinstance(v, Literal) else values[v] for v in variables]

    for equation in jaxpr.eqns:
        name, params, arguments = equation.primitive.name, equation.params, read(equation.invars)
        if name == "platform_index":
            results = [params["platforms"].index(None)]
        elif name == "cond" and _known(arguments[:1]):
            branch = params["branches"][int(arguments[0])]
            results = _replay(branch.jaxpr, branch.consts, *arguments[1:])
        elif name == "reshape" and params["dimensions"]:
            # A network's axis is folded into channels so. jax2onnx does not see the permutation.
            results = [jax.lax.transpose(arguments[0], params["dimensions"]).reshape(params["new_sizes"])]
        elif name in ("jit", "custom_jvp_call", "custom_vjp_call"):
            inner = params["jaxpr" if name == "jit" else "call_jaxpr"]
            results = _replay(inner.jaxpr, inner.consts, *arguments)
        else:
            # Shapes and counts are computed here; parameters stay as they are stored.
            counts = _known(arguments) and all(v.aval.dtype.kind in "ib" for v in equation.outvars)
            with jax.ensure_compile_time_eval() if counts else contextlib.nullcontext():
                results = equation.primitive.bind(*arguments, **params)
            results = results if equation.primitive.multiple_results else [results]
        values.update(zip(equation.outvars, results))
    return read(jaxpr.outvars)


def _known(values: list[Any]) -> bool:
    return not any(isinstance(value, jax.core.Tracer) for value in values)
