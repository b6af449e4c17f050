"""ONNX programs in a lower precision, by onnxruntime's own tools.

What they gain depends on the machine: a CPU that multiplies no float16 computes in float32, and gains the
smaller file alone.
"""

from __future__ import annotations

import logging
from pathlib import Path

PRECISIONS = ("float32", "float16", "int8")


def lower(folder: Path, precision: str) -> None:
    """Rewrites the programs in a folder.

    Args:
        folder: of encode.onnx, decode.onnx and, where the policy ranks candidates, judge.onnx.
        precision: "float32": they stay as they are; "float16": parameters and computation of all programs,
            their inputs and outputs stay float32; "int8": the products with parameters in encode.onnx, the
            inputs of which are rounded by their own range at each step, as onnxruntime's dynamic quantization
            does.

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
    from onnxruntime import quantization

    quantization.shape_inference.quant_pre_process(
        path, path
    )  # computes what is constant, such as a transpose
    logging.getLogger().setLevel(logging.ERROR)
    quantization.quantize_dynamic(path, path, per_channel=True)
