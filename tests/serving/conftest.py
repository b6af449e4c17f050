"""One exported policy and one server of it in each run, made by the real commands."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, SENTENCES


@dataclasses.dataclass
class Serving:
    """A server's process, its URL (ws://127.0.0.1:PORT) and the file of its stderr."""

    process: subprocess.Popen
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


PROGRAM = (sys.executable, "-m", "qt_jax")


def serve(path: Path, log: Path, *flags: str, program: Sequence = PROGRAM, **environment: str) -> Serving:
    """Starts `serve` and waits until it serves."""
    command = [*program, "serve", f"--artefact={path}", "--port=0", *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": log.open("w"), "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **streams)
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


def make_certificate(cert: Path, key: Path, address: str) -> None:
    """Writes a certificate that a server at this IP address has signed itself, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=robot", "-addext", f"subjectAltName=IP:{address}"]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)


def observations(spec, seed: int, count: int) -> list[dict]:
    """Returns random observations as a robot sends them."""
    rng, observation = np.random.default_rng(seed), spec.interface.observation
    prompt = {"prompt": SENTENCES[seed % len(SENTENCES)]}

    def one() -> dict:
        shape = (*observation.image_size, 3)
        seen = {f"observation/{name}": rng.integers(0, 256, shape, np.uint8) for name in observation.cameras}
        if observation.state_dim:
            seen["observation/state"] = rng.normal(size=observation.state_dim).astype(np.float32)
        return seen | prompt

    return [one() for _ in range(count)]
