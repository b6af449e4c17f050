"""ONNX programs in a lower precision, by onnxruntime's own tools.

What they gain depends on the machine: a CPU that multiplies no float16 computes in float32, and gains the
smaller file alone.
"""

from __future__ import annotations

from pathlib import Path

PRECISIONS = ("float32", "float16", "int8")


def lower(folder: Path, precision: str) -> None:
    """Rewrites the programs in a folder.

    Args:
        folder: of encode.onnx, decode.onnx and, where the policy ranks candidates, judge.onnx.
        precision: "float32": they stay as they are; "float16": parameters and computation of all programs,
            their inputs and outputs stay float32; "int8": the convolutions and matrix products of encode.onnx
            that have stored parameters. What goes into them is rounded by its own range at each step
            (onnxruntime's dynamic quantization), so that no data is needed.

    """
    if precision == "float16":
        for path in sorted(folder.glob("*.onnx")):
            _to_float16(path)
    elif precision == "int8":
        _to_int8(folder / "encode.onnx")


def _to_float16(path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def _to_int8(path: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    # Computes what is constant, such as a transposed kernel: only what is stored is quantized.
    quant_pre_process(path, path, skip_symbolic_shape=True)
    quantize_dynamic(path, path, weight_type=QuantType.QUInt8)  # of onnxruntime's products of convolutions

    # An older onnxruntime refuses sets of operations that it does not know, also where nothing uses them.
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    imports = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    onnx.save(model, path)
