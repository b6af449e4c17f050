"""What writing an ONNX program imports: the extra `onnx` has no readers of data."""

import subprocess
import sys

from tests.conftest import ROOT

IMPORT = """
import sys
for name in ("simplejpeg", "PIL", "pyarrow", "av", "google_crc32c", "tensorflow", "array_record"):
    sys.modules[name] = None
import qt_jax.export.onnx
"""


def test_onnx_needs_no_reader_of_data():
    subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, check=True)
