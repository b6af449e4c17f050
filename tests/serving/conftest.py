"""One exported policy and one server of it in each run, made by the real commands."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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


def make_certificate(
    cert: Path, key: Path, address: str, lives_s: float = 2 * 24 * 3600, age_s: float = 60
) -> None:
    """Writes a certificate that a server at this IP address has signed itself, and its key.

    It expires `lives_s` from now, and began `age_s` ago.
    """
    now = datetime.datetime.now(datetime.UTC)
    private, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=robot")
    place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=age_s))
        .not_valid_after(now + datetime.timedelta(seconds=lives_s))
        .add_extension(place, critical=False)
        .sign(private, hashes.SHA256())
    )
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


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
