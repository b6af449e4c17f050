"""Beside import-linter's contract, which does not see what a package imports for itself."""

import subprocess
import sys

from tests.conftest import ROOT


def test_the_onnx_runtime_needs_no_jax():
    script = "import sys; sys.modules['jax'] = None; import qt_jax.serving.onnx_policy, qt_jax.serving.sessions, qt_jax.serving.folder"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
