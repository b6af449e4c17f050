"""What is published: distributions of a clean checkout, each extra from PyPI in a venv of its own, licences.

`make release-check`; about ten minutes, most of them pip's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.serving.conftest import serve

pytestmark = pytest.mark.release

TOOLS, UV = ROOT / ".release/bin", Path(sys.executable).parent / "uv"
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")} | {
    "UV_SYSTEM_CERTS": "1"  # as the Makefile has it: a lab's mirror may be signed by the lab
}

UNNAMED = {"namex": "Apache-2.0"}
"""Licences of packages whose metadata name none, from their licence files."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a command outside of the checkout's reach; returns what it printed."""
    done = subprocess.run(command, cwd=cwd, env=CLEAN, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def unpack(folder: Path) -> None:
    """Writes the files of the last commit."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source distribution of the last commit."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    unpack(source)
    run(sys.executable, "-m", "build", f"--outdir={folder}", source)
    return folder


@pytest.fixture(scope="module")
def venv_of(built, tmp_path_factory):
    """A function that makes a venv with the wheel, some of its extras and nothing else; returns its bin."""

    def make(*extras: str) -> Path:
        folder = tmp_path_factory.mktemp("_".join(extras) or "base")
        (wheel,) = built.glob("*.whl")
        run(UV, "venv", "--quiet", f"--python={sys.executable}", folder / "venv")
        python = folder / "venv/bin/python"
        run(UV, "pip", "install", "--quiet", f"--python={python}", f"{wheel}[{','.join(extras)}]")
        run(UV, "pip", "check", "--quiet", f"--python={python}")
        return python.parent

    return make


def test_both_distributions_are_as_pypi_wants_them(built):
    files = sorted(built.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    run(TOOLS / "twine", "check", "--strict", *files)


def test_the_version_is_that_of_the_citation_and_of_the_changelog():
    import qt_jax

    version = qt_jax.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(), "CHANGELOG has no heading of this version"


ACT = """
import sys, numpy as np, qt_jax
policy = qt_jax.load_policy(sys.argv[1])
seen = {key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of}
print(policy.infer(seen | {"prompt": "open the faucet"})["actions"].shape)
"""
ASK = """
import sys, numpy as np
from qt_jax.serving.client import Client
with Client(sys.argv[1]) as policy:
    expected = policy.metadata["observation"]
    seen = {key: np.zeros(of["shape"], of["dtype"]) for key, of in expected.items() if "shape" in of}
    print(policy.infer(seen | {"prompt": "open the faucet"})["actions"].shape)
"""


def test_the_base_acts(venv_of, artefact, tmp_path):
    assert run(venv_of() / "python", "-c", ACT, artefact.path, cwd=tmp_path) == "(1, 4)\n"


def test_serve_serves_and_its_client_asks(venv_of, artefact, tmp_path):
    programs = venv_of("serve")
    server = serve(artefact.path, tmp_path / "log", program=[programs / "qt-jax"])
    try:
        assert run(programs / "python", "-c", ASK, server.url, cwd=tmp_path) == "(1, 4)\n"
    finally:
        assert server.end() == 0


def test_train_and_data_train_and_export(venv_of, dataset_path, tmp_path):
    programs, config = venv_of("train", "data"), tmp_path / "mine.py"
    config.write_text(
        "from qt_jax.training.config import default_config\n\n"
        "def get_config():\n"
        "    config = default_config('q_transformer')\n"
        f"    config.data.path = {dataset_path!r}\n"
        "    config.data.batch_size, config.model.layers, config.train.steps = 4, 1, 2\n"
        "    return config\n"
    )
    for command in ("train", "export"):
        run(programs / "qt-jax", command, f"--config={config}", cwd=tmp_path)
    (policy,) = tmp_path.glob("runs/**/policy")
    assert run(programs / "python", "-c", ACT, policy, cwd=tmp_path) == "(1, 4)\n"


def test_the_onnx_extra_writes_programs_that_act(venv_of, artefact, tmp_path):
    programs, policy = venv_of("onnx"), tmp_path / "policy"
    shutil.copytree(artefact.path, policy)
    run(programs / "qt-jax", "onnx", f"--artefact={policy}", cwd=tmp_path)
    assert run(programs / "python", "-c", ACT, policy / "onnx", cwd=tmp_path) == "(1, 4)\n"


@pytest.mark.parametrize("chip", ["cuda", "tpu"])
def test_a_container_s_steps(chip, venv_of, tmp_path):
    """Those of launch/docker that need no Docker: its packages are to be had, and its tree is a program."""
    python, tree = venv_of() / "python", tmp_path / "tree"
    tree.mkdir()
    unpack(tree)
    for pattern in (tree / ".dockerignore").read_text().split():
        for left_out in tree.glob(pattern):
            shutil.rmtree(left_out) if left_out.is_dir() else left_out.unlink()
    lock = f"--requirements={tree}/requirements-{chip}.txt"
    run(UV, "pip", "install", "--dry-run", "--quiet", "--require-hashes", f"--python={python}", lock)
    run(UV, "pip", "install", "--quiet", "--no-deps", f"--python={python}", "--editable", tree)
    assert "serve" in run(python, "-m", "qt_jax", "--help", cwd=tmp_path)


def test_no_dependency_has_a_licence_that_binds_its_users(venv_of):
    """Writes dist/sbom.json too: what training and serving bring, with versions and licences."""
    python = venv_of("train", "data", "serve") / "python"
    (ROOT / "dist").mkdir(exist_ok=True)
    run(TOOLS / "cyclonedx-py", "environment", python, f"--output-file={ROOT / 'dist/sbom.json'}")
    table = run(TOOLS / "pip-licenses", f"--python={python}", "--format=json", "--from=mixed")
    licences = {row["Name"]: row["License"] for row in json.loads(table)} | UNNAMED
    assert "jax" in licences and not {name: of for name, of in licences.items() if of == "UNKNOWN"}
    assert not {name: of for name, of in licences.items() if re.search(r"(?<!L)GPL|General Public", of)}
