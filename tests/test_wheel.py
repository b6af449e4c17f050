"""The wheel, built from the source distribution, where nothing of the checkout is within reach."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

CLEAN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
ROBOT = """
import sys
import numpy as np
import qt_jax
from qt_jax.serving.client import Client

where, url = sys.argv[1:]
policy = qt_jax.load_policy(where)
seen = {key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of}
seen["prompt"] = "open the faucet"
actions = policy.infer(seen)["actions"]
with Client(url) as client:
    np.testing.assert_allclose(client.infer(seen)["actions"], actions, atol=1e-5)
print(qt_jax.__file__, actions.shape)
"""


def python(module: str, *arguments: str | Path) -> None:
    """Runs a module of this environment."""
    subprocess.run([sys.executable, "-m", module, *arguments], env=CLEAN, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT / "qt_jax", source / "qt_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python("build", "--no-isolation", f"--outdir={built}", source)
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel and what it asks for with the extra `serve`, and no more."""
    where = tmp_path_factory.mktemp("environment")
    venv.create(where, symlinks=True)
    python("pip", f"--python={where / 'bin' / 'python'}", "install", "--no-deps", "--no-index", wheel)
    (packages,) = where.glob("lib/python*/site-packages")
    (own,) = metadata.distributions(path=[str(packages)])
    for distribution in needed(own, {"", "serve"}, {}).values():
        for name in {path.parts[0] for path in distribution.files} - {"..", "__pycache__"}:
            (packages / name).symlink_to(distribution.locate_file(name))
    return where


def needed(
    of: metadata.Distribution, extras: Iterable[str], found: dict[str, metadata.Distribution]
) -> dict[str, metadata.Distribution]:
    """Adds to `found` what a distribution needs, from the packages of this test, and what that needs."""
    for requirement in map(Requirement, of.requires or ()):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if requirement.name not in found:
            found[requirement.name] = metadata.distribution(requirement.name)
            needed(found[requirement.name], requirement.extras or {""}, found)
    return found


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if name.startswith("qt_jax/")}
    files = {path.relative_to(ROOT) for path in (ROOT / "qt_jax").rglob("*") if path.is_file()}
    files = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    assert "qt_jax/py.typed" in files and packed == files


def test_it_acts_and_serves_from_an_empty_folder(artefact, environment, tmp_path_factory):
    policy, empty = artefact.path, tmp_path_factory.mktemp("empty")
    command = [environment / "bin" / "qt-jax", "serve", f"--artefact={policy}", "--port=0"]
    server = subprocess.Popen(command, cwd=empty, env=CLEAN, stdout=subprocess.PIPE, text=True)
    try:
        url = next(found[1] for line in server.stdout if (found := re.search(r"serving (ws://\S+)", line)))
        with urllib.request.urlopen(url.replace("ws://", "http://")) as page:
            assert b"<script" in page.read()
        robot = [environment / "bin" / "python", "-c", ROBOT, policy, url]
        done = subprocess.run(robot, cwd=empty, env=CLEAN, capture_output=True, text=True, timeout=120)
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=60) == 0
    assert done.stdout.split(maxsplit=1)[1:] == ["(1, 4)\n"], done.stderr[-2000:]
    assert Path(done.stdout.split()[0]).is_relative_to(environment)
