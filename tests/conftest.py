"""One tiny dataset and one tiny checkpoint a run, made by the real simulator, writer and learner."""

# ruff: noqa: E402 (jax reads its flags when it is imported)

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Compilation is most of what the tests wait for: with these it takes a sixth, and the programs compute the
# same to rounding. Before jax is imported, and for all processes that the tests start.
FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
if FAST_COMPILATION not in os.environ.get("XLA_FLAGS", ""):  # a test's own process has them already
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST_COMPILATION}"

import jax
import ml_collections
import pytest

from qt_jax.policy import artefact as artefacts
from qt_jax.training import datasets, loop
from qt_jax.training.peers import Peers
from tests import forked, tiny

gc.set_threshold(50_000)  # as for a command
ROOT = Path(__file__).parent.parent
SENTENCES = ("open the faucet", "close the faucet", "push the button")
LONG = (
    "docs/test_pages.py",
    "training/test_never_lose_a_run.py",
    "serving/test_circle.py",
    "training/test_learner.py",
    "export/test_artefact.py",
    "cli/test_commands.py",
    "launch/test_launch.py",
    "test_examples.py",
    "evaluation/test_evaluation.py",
    "models/test_q_transformer.py",
    "training/test_storage.py",
    "curation/test_convert.py",
    "training/test_networks.py",
    "export/test_ranking.py",
)
"""By CPU time, longest first."""


def run_command(
    name: str, *overrides: str, check: bool = True, config: str = "tests/tiny.py"
) -> subprocess.CompletedProcess:
    """Runs a command in a process of its own (see forked.py); config "": one without."""
    arguments = [name, *([f"--config={config}"] if config else []), *overrides]
    result = forked.run(arguments, ROOT, timeout_s=300)
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
    raise AssertionError("a worker outlived the command")


def train(config: ml_collections.ConfigDict):
    return loop.train(ml_collections.FrozenConfigDict(config), datasets.entries(config), Peers())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker ends with one alone; the order within a file stays."""
    assert not [name for name in LONG if not (ROOT / "tests" / name).exists()], "LONG names files that moved"
    first = {f"tests/{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.nodeid.partition("::")[0], len(LONG)))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """Of all workers of this run of the tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(folder: Path, make: Callable[[str], object]) -> str:
    """`folder`, by the first worker that wants it; the others wait, and change nothing in it."""
    done = folder.with_suffix(".done")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(str(folder))
            done.touch()
    return str(folder)


@pytest.fixture(scope="session", autouse=True)
def caches(run_folder):
    """Of commands' processes too: indices of this run of the tests, and a week's compiled programs."""
    os.environ["QT_JAX_CACHE"] = str(run_folder / "cache")
    programs = Path("~/.cache/qt_jax_tests").expanduser()  # its path is a part of JAX's keys
    programs.mkdir(parents=True, exist_ok=True)
    for program in programs.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if program.stat().st_mtime < time.time() - 7 * 24 * 3600:
                program.unlink()
    settings = {"jax_compilation_cache_dir": str(programs), "jax_persistent_cache_min_compile_time_secs": 0.1}
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def synthetic_root(run_folder) -> str:
    """Directory of the datasets of tests/data/synthetic.py."""

    def make(root: str) -> None:
        script = f"from tests.data import synthetic; synthetic.main({root!r})"
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=300)

    return made_once(run_folder / "synthetic", make)


@pytest.fixture(scope="session")
def dataset_path(run_folder) -> str:
    return made_once(run_folder / "tiny", lambda path: run_command("collect", f"--config.data.path={path}"))


@pytest.fixture
def config(dataset_path, tmp_path) -> ml_collections.ConfigDict:
    config = tiny.get_config()
    config.data.path = dataset_path
    config.workdir = str(tmp_path / "run")
    return config


@pytest.fixture(scope="session")
def trained(dataset_path, run_folder, tmp_path_factory) -> ml_collections.ConfigDict:
    """The config of a finished run of 20 steps: this worker's copy, in which commands may write."""
    config = tiny.get_config()
    config.data.path = dataset_path

    def make(workdir: str) -> None:
        config.workdir = workdir
        train(config)

    finished = made_once(run_folder / "trained", make)
    config.workdir = str(tmp_path_factory.mktemp("runs") / "tiny")
    shutil.copytree(finished, config.workdir)
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
def artefact(trained, run_folder) -> artefacts.Artefact:
    """One exported policy of the trained run, which ranks candidates, through the real command."""

    def make(path: str) -> None:
        sentences = run_folder / "sentences.txt"
        sentences.write_text("\n".join(SENTENCES))
        flags = f"--config.workdir={trained.workdir}", f"--output={path}", f"--instructions={sentences}"
        run_command("export", *flags, "--candidates=3")

    return artefacts.load(made_once(run_folder / "exported", make))
