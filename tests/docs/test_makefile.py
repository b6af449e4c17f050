"""What the Makefile lists and takes away."""

import re
import subprocess

from tests.conftest import ROOT

DATA = {"data", "runs", ".fleet"}


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def removed(target: str) -> set[str]:
    """Names that `make TARGET` would remove from a clone."""
    return {name for line in re.findall(r"^rm -rf (.*)", make("-n", target), re.M) for name in line.split()}


def test_clean_takes_all_that_git_ignores_and_no_data():
    ignored = {name.strip("/") for name in (ROOT / ".gitignore").read_text().split()}
    assert {".venv", ".libtpu", "site", "*.egg-info"} < ignored
    assert removed("clean") - {"{}", "+"} == ignored - DATA - {"__pycache__"}
    assert removed("clean-data-and-runs") == DATA


def test_make_lists_each_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.M)[1].replace("\\", " ").split()
    listed = [line.split(maxsplit=1) for line in make().splitlines()]
    assert sorted(targets) == sorted(name for name, _ in listed)
    assert "test" in targets and not [target for target in targets if f"\n{target}:" not in makefile]
