"""`make bench-onnx`: the precisions of `python -m qt_jax onnx`: size, one control step, and agreement.

For the laptop- and the paper-size network with random parameters, one 300x300 image, batch 1: each precision
in a copy of the same artefact, all in turns in one process on onnxruntime. A precision that `onnx` refuses,
because it does not agree with the artefact, has what it said in place of figures.
Writes experiments/results/bench_onnx.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_serving as serving
from benchmarks import runs
from qt_jax.export.onnx_precision import PRECISIONS

RESULT = Path("experiments/results/bench_onnx.json")


def measure(size: str, folders: dict[str, str]) -> dict[str, Any]:
    """Measures each precision's folder; runs in the venv of the extra `onnx`."""
    import onnxruntime

    from qt_jax.policy import onnx_policy

    none, embedding = np.zeros((1, 0), np.float32), np.zeros((1, 512), np.float32)

    def step(folder: str) -> Callable[[int], Any]:
        policy, rng = onnx_policy.load(folder), np.random.default_rng(0)
        shape = 8, 1, *policy.spec.interface.observation.image_size, 3
        images, first = rng.integers(0, 256, shape, np.uint8), np.zeros(1, bool)
        return lambda n: policy.act(np.zeros(1, int), {"front": images[n % 8]}, none, embedding, first)

    times = serving.in_turns({name: step(folder) for name, folder in folders.items()}, size)
    found: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
    for name, folder in folders.items():
        files = list(Path(folder, "onnx").iterdir())
        about = json.loads(Path(folder, "policy.json").read_text())["onnx"]
        mib = sum(file.stat().st_size for file in files) / 2**20
        found[name] = serving.percentiles(times[name]) | {"mib": mib, "agreement": about["agreement"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=[*serving.ROUNDS], help="of networks")
    sizes, results = parser.parse_args().sizes, {}
    if unknown := {*sizes} - {*serving.ROUNDS}:
        sys.exit(f"{sorted(unknown)}: give sizes among {[*serving.ROUNDS]}")
    commit = runs.code_commit("benchmarks")
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folders = {name: f"{scratch}/{name}" for name in PRECISIONS}
            export = serving.call_of("export_untrained", size, folders["float32"], serving.PIXELS, 0, (1,))
            serving.child(sys.executable, "-c", export)
            for name in PRECISIONS[1:]:
                shutil.copytree(folders["float32"], folders[name])
            refused = {}
            for name, folder in folders.items():
                command = [serving.ONNX_PYTHON, "-m", "qt_jax", "onnx", f"--artefact={folder}"]
                done = subprocess.run([*command, f"--precision={name}"], capture_output=True, text=True)
                if done.returncode:
                    refused[name] = done.stderr.strip().splitlines()[-1]
            kept = {name: folder for name, folder in folders.items() if name not in refused}
            script = serving.call_of("measure", size, kept, module="bench_onnx")
            results[size] = json.loads(serving.child(serving.ONNX_PYTHON, "-c", script)) | refused
        print(f"{size}: {json.dumps(results[size], indent=1)}", flush=True)
        runs.write(RESULT, commit=commit, **results)


if __name__ == "__main__":
    main()
