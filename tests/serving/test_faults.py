"""What breaks around a server: bytes, clients that vanish, clocks, disks, signals and certificates.

docs/robot.md has the table of all faults that are tried, here and in the other files.
"""

import contextlib
import itertools
import logging
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from websockets.frames import Frame, Opcode

from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused
from qt_jax.serving import telemetry, wire
from qt_jax.serving.certificate import Certificate
from qt_jax.serving.client import Client
from qt_jax.serving.rate import Rate
from qt_jax.serving.recording import Recorder
from qt_jax.serving.spool import Spool
from tests.conftest import ROOT, run_command
from tests.serving import fake, fuzz
from tests.serving.conftest import make_certificate, serve
from tests.serving.test_unread import connected


def url(port: int, scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{port}"


def test_200_broken_frames_end_their_own_connection_alone():
    rng = np.random.default_rng(0)
    with fake.served() as port, Client(url(port)) as robot:
        for step in range(200):
            with connected(port) as raw:
                raw.sendall(fuzz.frames(rng))
                raw.shutdown(socket.SHUT_WR)
                raw.settimeout(5)
                with contextlib.suppress(ConnectionError):
                    while raw.recv(4096):  # until the server closes it
                        pass
            assert robot.infer(fake.observation())["step"] == step


def test_a_client_that_vanished_gives_its_session_up():
    """It answers no ping and sends no FIN, as when the network is gone; the server pings each 0.2 s."""
    with fake.served(ping_s=0.2, capacity=2) as port, connected(port) as vanished:
        vanished.sendall(Frame(Opcode.BINARY, wire.pack(fake.observation())).serialize(mask=True))
        with Client(url(port)) as robot:
            refused, end = None, time.monotonic() + 5
            while time.monotonic() < end:
                try:
                    assert robot.infer(fake.observation())["step"] == 0
                    break
                except Refused as error:
                    refused = error
                    time.sleep(0.05)
            else:
                raise AssertionError("the session of the client that vanished is still in use")
            assert refused is not None and refused.code == "sessions_full"
            assert "qt_connections 1.0" in metrics(port)


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        return reply.read().decode()


def test_a_clock_that_is_set_changes_nothing(monkeypatch, tmp_path):
    """At each reading it is two days before or after the last one."""
    now, jumps = time.time(), itertools.cycle((-2, 2))
    monkeypatch.setattr(time, "time", lambda: now + 24 * 3600 * next(jumps))
    limits = {"idle_timeout_s": 5.0, "deadline_ms": 5000.0}
    with Spool(tmp_path / "served.episodes") as spool:
        with fake.served(recorder=Recorder(spool), **limits) as port:
            robot = Client(url(port), timeout_s=5, reconnect_s=0)
            start, rate = time.monotonic(), Rate(100)
            for step in range(20):
                assert robot.infer(fake.observation(prompt="open"))["step"] == step
                rate.wait()
            assert 0.2 <= time.monotonic() - start < 10
            assert fake.label(robot) == "000000"
            fake.act(robot, "open")
            assert fake.label(robot) == "000001"
        start = time.monotonic()
        with pytest.raises(UserError, match="does not answer"):
            robot.infer(fake.observation())
        assert time.monotonic() - start < 3
        assert [len(episode.actions) for episode in spool.read()] == [20, 1]
        robot.disconnect()


def test_the_wall_clock_is_read_for_people_alone():
    """What is measured or waited for has a clock that nobody sets; a certificate's end is a date."""
    shown = {"telemetry.py", "dashboard.py", "spool.py", "ranking.py", "certificate.py"}
    files = [*ROOT.glob("qt_jax/serving/*.py"), *ROOT.glob("qt_jax/policy/*.py")]
    words = ("time.time(", "datetime", "strftime", "localtime", "gmtime")
    assert {file.name for file in files if any(word in file.read_text() for word in words)} == shown


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; needs root."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_no_label(small_disk):
    """The kernel's own error in the middle of a file; in test_recording.py the call to write fails."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(192 * 1024))
    frames = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)  # 120 KB, which stay so
    with Spool(small_disk / "served.episodes") as spool:
        with fake.served(recorder=Recorder(spool)) as port, Client(url(port)) as robot:
            for frame in frames:
                robot.infer(fake.observation(prompt="open", **{"observation/front": frame}))
            with pytest.raises(Refused, match="No space left on device.; free space.*kept in memory"):
                fake.label(robot)
            assert [file.name for file in spool.folder.iterdir()] == ["lock"]
            filler.unlink()
            fake.act(robot, "close")
            fake.label(robot, "close")
        first, second = spool.read()
        np.testing.assert_array_equal(first.images["front"][:10], frames)
        assert (first.instruction, second.instruction) == ("open", "close")


@contextlib.contextmanager
def recording(folder: Path):
    """Yields the process of recording_server.py, its URL, and the line about the server before."""
    command = [sys.executable, "-m", "tests.serving.recording_server", str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as it:
        try:
            before = it.stdout.readline()
            yield it, it.stdout.readline().split()[1], before
        finally:
            it.kill()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_a_recording_loses_the_episode_under_way_alone(number, tmp_path):
    with recording(tmp_path / "spool") as (process, at, _):
        robot = Client(at, reconnect_s=0)
        for prompt in ("open", "close"):
            fake.act(robot, prompt, prompt)
            fake.label(robot, prompt)
        fake.act(robot, "push", "push")
        process.send_signal(number)
        killed = number == signal.SIGKILL
        assert process.wait(60) == (-signal.SIGKILL if killed else 0)
        assert ("unlabelled: 1" in process.stdout.read()) is not killed
        with pytest.raises(UserError, match="does not answer"):
            robot.infer(fake.observation())
        robot.disconnect()
    with Spool(tmp_path / "spool") as spool:
        assert [(one.instruction, len(one.actions)) for one in spool.read()] == [("open", 2), ("close", 2)]
        assert spool.before.startswith(f"process {process.pid} on ")


@pytest.mark.slow
def test_after_kill_9_the_next_server_writes_both_recordings(artefact, tmp_path):
    """The real command, and the dataset that it writes when the terminal is closed."""
    names = artefact.spec.interface.observation
    seen = {f"observation/{name}": np.zeros((*names.image_size, 3), np.uint8) for name in names.cameras}
    seen |= {"observation/state": np.zeros(names.state_dim, np.float32), "prompt": "open the faucet"}
    flags = "--max_sessions=2", f"--record={tmp_path / 'recorded'}"
    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGHUP, 0)):
        serving = serve(artefact.path, tmp_path / "log", *flags)
        try:
            robot = Client(serving.url)
            for _ in range(3):
                robot.infer(seen)
            robot.label(seen, True)
            robot.infer(seen)
            serving.process.send_signal(number)
            assert serving.process.wait(120) == status, serving.log.read_text()
            robot.disconnect()
        finally:
            serving.process.kill()
    shown = run_command("inspect", f"--data={tmp_path / 'recorded'}", config="").stdout
    assert (
        "episodes      2: " in shown
        and "left out: 1 episodes without a label" in serving.process.stdout.read()
    )


@pytest.fixture
def pems(tmp_path):
    """A function that makes a certificate, and returns the paths of it and its key."""

    def make(**lives: float) -> tuple[str, str]:
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        make_certificate(cert, key, "127.0.0.1", **lives)
        return str(cert), str(key)

    return make


def test_a_server_does_not_start_with_a_certificate_that_no_client_accepts(pems):
    with pytest.raises(UserError, match=r"cert.pem expired at \d{4}-.* UTC; renew it"):
        Certificate.read(*pems(lives_s=-5))
    with pytest.raises(UserError, match="is valid from .* UTC on, and it is .*; set this machine's clock"):
        Certificate.read(*pems(age_s=-3600))


def test_a_certificate_that_expires_while_a_server_runs_is_logged_and_named(pems, monkeypatch):
    """The connection that is open stays; a new one is refused by its client."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = telemetry.logger()
    log.addHandler(handler)
    cert, key = pems(lives_s=3)
    held = Certificate.read(cert, key)
    try:
        with fake.served(tls=held) as port, Client(url(port, "wss"), ca=cert) as robot:
            assert robot.infer(fake.observation())["step"] == 0
            assert "the certificate expires soon; renew it" in lines
            while time.time() < held.expires + 0.5:
                time.sleep(0.1)
            assert "the certificate has expired: no client can connect; renew it" in lines
            assert robot.infer(fake.observation())["step"] == 1
            with pytest.raises(UserError, match=r"\(certificate has expired\); renew it at the server"):
                Client(url(port, "wss"), ca=cert)
    finally:
        log.removeHandler(handler)
