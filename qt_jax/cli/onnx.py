"""`onnx`: adds ONNX programs to a policy artefact, for robots without jax.

The programs are compared with the artefact before they are kept.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from qt_jax.errors import UserError
from qt_jax.export.onnx_precision import PRECISIONS

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's own flags."""
    flags.DEFINE_string("artefact", "", "The folder that `export` wrote.")
    opset = "Version of ONNX' operators, 13 or later. onnxruntime 1.17 runs up to 20, 1.18 up to 21."
    flags.DEFINE_integer("opset", 20, opset)
    flags.DEFINE_enum(
        "precision",
        "float32",
        PRECISIONS,
        "Of the programs: float16 of all of them; int8 of the convolutions and plain matrix products that "
        "encode images.",
    )


def main() -> None:
    """Adds the programs, and prints how well they agree with the artefact's."""
    from qt_jax.export import agreement, onnx

    folder = FLAGS.artefact
    if not folder:
        raise UserError("--artefact is missing; give the folder that `python -m qt_jax export` wrote.")
    added = onnx.write(folder, FLAGS.opset, FLAGS.precision)["onnx"]
    files = sorted(Path(folder, onnx.FOLDER).iterdir())
    names, size = ", ".join(file.name for file in files), sum(file.stat().st_size for file in files)
    print(f"{folder}: {names}, {size / 2**20:.1f} MiB, {added['dtype']}, opset {added['opset']}")
    print(agreement.summary(added["agreement"], "the artefact"))
    print(
        f'act with it: qt_jax.load_policy("{folder}/{onnx.FOLDER}"); numpy and onnxruntime are enough '
        "(for exported sentences safetensors, too)"
    )
