"""ONNX programs in a lower precision, by onnxruntime's own tools.

What they gain depends on the machine: a CPU that multiplies no float16 computes in float32, and gains the
smaller file alone.
"""

from __future__ import annotations

from pathlib import Path

from qt_jax.errors import UserError

PRECISIONS = ("float32", "float16", "int8")


def lower(folder: Path, precision: str) -> None:
    """Rewrites the programs in a folder.

    Args:
        folder: of encode.onnx, decode.onnx and, where the policy ranks candidates, judge.onnx.
        precision: "float32": they stay as they are; "float16": parameters and computation of all programs,
            their inputs and outputs stay float32; "int8": the convolutions and matrix products of encode.onnx
            that have stored parameters. What goes into them is rounded by its own range at each step
            (onnxruntime's dynamic quantization), so that no data is needed.

    Raises:
        UserError: naming the program that the tool does not take, or in which there is nothing to round.

    """
    programs = {"float32": [], "float16": sorted(folder.glob("*.onnx")), "int8": [folder / "encode.onnx"]}
    for path in programs[precision]:
        try:
            _TOOLS[precision](path)
        except UserError:
            raise
        except Exception as error:  # whatever a tool raises
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"The part {path.stem!r} of the policy does not become {precision}: {why}. Use "
                "--precision=float32."
            ) from error
        Path(f"{path}.data").unlink(missing_ok=True)  # where large constants were before; now they are inside


def _to_float16(path: Path) -> None:
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    lowered = ONNXModel(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    lowered.topological_sort()  # the casts of the inputs are at the end
    onnx.save(lowered.model, path)


def _to_int8(path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    onnx.save(onnx.load(path), path)  # with all constants inside, as the next step wants them
    # Computes what is constant, such as a transposed kernel: only what is stored is quantized.
    quant_pre_process(path, path, skip_symbolic_shape=True)
    quantize_dynamic(path, path, weight_type=QuantType.QUInt8)  # of onnxruntime's products of convolutions

    # An older onnxruntime refuses sets of operations that it does not know, also where nothing uses them.
    model = onnx.load(path)
    if not any(node.op_type in ("ConvInteger", "MatMulInteger") for node in model.graph.node):
        raise UserError("The image encoder has nothing that --precision=int8 rounds; use another precision.")
    used = {node.domain for node in model.graph.node}
    imports = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    onnx.save(model, path)


_TOOLS = {"float16": _to_float16, "int8": _to_int8}
