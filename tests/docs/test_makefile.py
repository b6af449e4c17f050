"""What the Makefile takes away."""

import re
import subprocess

from tests.conftest import ROOT


def removed(target: str) -> set[str]:
    """Names that `make TARGET` would remove from a clone."""
    told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<=\s)[.\w*][\w.*-]*", " ".join(re.findall(r"^rm -rf(.*)", told, re.M))))


def test_clean_takes_every_venv_and_no_data():
    made = set(re.findall(r"^(\.\w+)/\.installed:", (ROOT / "Makefile").read_text(), re.M))
    assert {".venv", ".libtpu", ".plots"} | made <= removed("clean")
    assert not removed("clean") & {"data", "runs"}
    assert removed("clean-data-and-runs") == {"data", "runs"}
