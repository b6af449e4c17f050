"""One tiny dataset and one tiny checkpoint a run, made by the real simulator, writer and learner."""

# ruff: noqa: E402 (jax reads its flags when it is imported)

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

# Compilation is most of what the tests wait for: at this level it takes a third, and the programs compute the
# same to rounding. Before jax is imported, and for all processes that the tests start.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if FAST_COMPILATION not in os.environ.get("XLA_FLAGS", ""):  # a test's own process has them already
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"

import ml_collections
import pytest

from qt_jax.policy import artefact as artefacts
from qt_jax.training import datasets, loop
from qt_jax.training.peers import Peers
from tests import tiny

ROOT = Path(__file__).parent.parent
SENTENCES = ("open the faucet", "close the faucet", "push the button")


def door(
    name: str, *overrides: str, check: bool = True, config: str = "tests/tiny.py"
) -> subprocess.CompletedProcess:
    """A door of the command line, in a process of its own as a user starts it; config "": one without."""
    command = [sys.executable, "-m", "qt_jax", name, *([f"--config={config}"] if config else []), *overrides]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def with_devices(count: int, **more: str) -> dict[str, str]:
    """The environment of a process with so many simulated devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return os.environ | {"XLA_FLAGS": flags} | more


def assert_group_ends(leader: int) -> None:
    """Of a process started with start_new_session: it and all that it started are gone, soon."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a worker outlived the door")


def train(config: ml_collections.ConfigDict):
    return loop.train(ml_collections.FrozenConfigDict(config), datasets.entries(config), Peers())


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Indices of this run alone, of the doors' processes too."""
    os.environ["QT_JAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> str:
    """Directory of the datasets of tests/data/synthetic.py."""
    root = str(tmp_path_factory.mktemp("synthetic"))
    script = f"from tests.data import synthetic; synthetic.main({root!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=300)
    return root


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "tiny")
    door("collect", f"--config.data.path={path}")
    return path


@pytest.fixture
def config(dataset_path, tmp_path) -> ml_collections.ConfigDict:
    config = tiny.get_config()
    config.data.path = dataset_path
    config.workdir = str(tmp_path / "run")
    return config


@pytest.fixture(scope="session")
def trained(dataset_path, tmp_path_factory) -> ml_collections.ConfigDict:
    """The config of a finished run of 20 steps."""
    config = tiny.get_config()
    config.data.path = dataset_path
    config.workdir = str(tmp_path_factory.mktemp("runs") / "tiny")
    train(config)
    return config


@pytest.fixture
def free_port():
    """A function that gives a free port of loopback whose next one is free too (the roll call's)."""

    def find() -> int:
        while True:
            with socket.create_server(("127.0.0.1", 0)) as first:
                port = first.getsockname()[1]
                try:
                    socket.create_server(("127.0.0.1", port + 1)).close()
                except OSError:
                    continue
                return port

    return find


@pytest.fixture(scope="session")
def artefact(trained, tmp_path_factory) -> artefacts.Artefact:
    """One exported policy of the trained run, through the real command."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "sentences.txt").write_text("\n".join(SENTENCES))
    path = folder / "policy"
    door(
        "export",
        f"--config.workdir={trained.workdir}",
        f"--output={path}",
        f"--instructions={folder / 'sentences.txt'}",
    )
    return artefacts.load(str(path))
