"""`onnx`: adds ONNX programs to a policy artefact, for robots without jax, and compares them with the
artefact before they are kept.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags


def define_flags() -> None:
    flags.DEFINE_string("artefact", "", "The folder that `export` wrote.")
    flags.DEFINE_integer("opset", 21, "Of ONNX, 13 or later. onnxruntime 1.17 runs up to 20, 1.18 up to 21.")


def main() -> None:
    from qt_jax.errors import UserError
    from qt_jax.export import agreement, onnx

    folder = flags.FLAGS.artefact
    if not folder:
        raise UserError("--artefact is missing; give the folder that `python -m qt_jax export` wrote.")
    added = onnx.write(folder, flags.FLAGS.opset)["onnx"]
    files = sorted(Path(folder, onnx.FOLDER).iterdir())
    size = sum(file.stat().st_size for file in files) / 2**20
    print(
        f"{folder}: {', '.join(file.name for file in files)}, {size:.1f} MiB, {added['dtype']}, "
        f"opset {added['opset']}\n"
        f"{agreement.summary(added['agreement'], 'the artefact')}\n"
        f'act with it: qt_jax.load_policy("{folder}/{onnx.FOLDER}"); numpy and onnxruntime are enough '
        "(for exported sentences safetensors, too)"
    )
