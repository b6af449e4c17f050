"""One exported policy and one server of it, through the real doors, a run."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, SENTENCES


@dataclasses.dataclass
class Serving:
    """A server's process; url: ws://127.0.0.1:PORT."""

    process: subprocess.Popen
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def serve(path: Path, log: Path, *flags: str, **environment: str) -> Serving:
    """Starts the door and waits until it serves."""
    command = [sys.executable, "-m", "qt_jax", "serve", f"--artefact={path}", "--port=0", *flags]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=log.open("w"),
        text=True,
    )
    for line in process.stdout:
        if found := re.search(r"serving (wss?://\S+)", line):
            return Serving(process, found[1], log)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="session")
def served(artefact, tmp_path_factory) -> Iterator[Serving]:
    """64 sessions, no key."""
    serving = serve(
        artefact.path, tmp_path_factory.mktemp("serve") / "log", "--max_sessions=64", "--connections=100"
    )
    yield serving
    assert serving.end() == 0


def observations(spec, seed: int, count: int) -> list[dict]:
    """As a robot sends them."""
    rng, observation = np.random.default_rng(seed), spec.interface.observation
    return [
        {
            f"observation/{name}": rng.integers(0, 256, (*observation.image_size, 3), np.uint8)
            for name in observation.cameras
        }
        | (
            {"observation/state": rng.normal(size=observation.state_dim).astype(np.float32)}
            if observation.state_dim
            else {}
        )
        | {"prompt": SENTENCES[seed % len(SENTENCES)]}
        for _ in range(count)
    ]
