"""A server on a Unix socket: who may connect, what is there before and after, and what is refused."""

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from qt_jax.errors import UserError
from qt_jax.serving.access import Access
from qt_jax.serving.client import Client
from qt_jax.serving.unix import UnixSocket
from tests.conftest import ROOT, run_command
from tests.serving import fake

KEY = "0123456789abcdef"


@pytest.fixture
def path():
    """Of a file in a folder whose name is short: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "qt.sock"


def test_a_robot_acts_over_it_and_the_file_is_its_owners_and_gone_at_the_end(path):
    with fake.served(unix=UnixSocket(str(path)), access=Access((KEY,))):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        with Client(f"unix://{path}", KEY) as robot:
            assert [robot.infer(fake.observation())["step"] for _ in range(2)] == [0, 1]
        with pytest.raises(UserError, match="API key is missing or wrong"):
            Client(f"unix://{path}", reconnect_s=0)
        page = http.client.HTTPConnection("localhost")
        page.sock = socket.socket(socket.AF_UNIX)
        page.sock.connect(str(path))
        page.request("GET", "/healthz")
        assert page.getresponse().status == 200
        page.close()
    assert not path.exists()
    with pytest.raises(UserError, match=r"unix://.*qt.sock does not answer \(FileNotFoundError"):
        Client(f"unix://{path}", reconnect_s=0)


KILLED = """
import os, signal, sys
from qt_jax.serving.unix import UnixSocket
UnixSocket(sys.argv[1]).bind().listen()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_server_left_is_replaced_and_a_live_ones_is_refused(path):
    killed = subprocess.run([sys.executable, "-c", KILLED, path], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and path.is_socket()
    with fake.served(unix=UnixSocket(str(path), 0o660)):
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        for start in (UnixSocket(str(path)).check, UnixSocket(str(path)).bind):
            with pytest.raises(
                UserError, match=r"qt.sock cannot be .* \(another server listens there\); end"
            ):
                start()
        with Client(f"unix://{path}") as robot:
            assert robot.infer(fake.observation())["step"] == 0
    assert not path.exists()


def test_another_servers_file_is_not_removed(path):
    with UnixSocket(str(path)) as first, first.bind():
        path.unlink()
        with UnixSocket(str(path)) as second, second.bind():
            first.__exit__()
            assert path.is_socket()


@pytest.mark.parametrize(
    "name, words",
    [
        ("file", "a file that is no socket is there"),
        ("none/qt.sock", "its folder is missing"),
        ("x" * 120, r"its path has \d+ bytes, expected at most 107"),
    ],
)
def test_what_cannot_be_listened_on_is_named(path, name, words):
    (path.parent / "file").touch()
    with pytest.raises(UserError, match=rf"--socket=.*{name} cannot be listened on \({words}\); "):
        UnixSocket(str(path.parent / name)).bind()
    assert (path.parent / "file").exists()


def test_flags_that_a_socket_cannot_have_are_refused(tmp_path):
    socket = f"--socket={tmp_path}/s"
    for flags, words in {
        (socket, "--port=1"): "has no host, port or TLS",
        (socket, "--socket_mode=066"): "--socket_mode is 066; expected permissions",
        ("--socket_mode=660",): "--socket_mode=660 is of a Unix socket",
    }.items():
        given = f"--artefact={tmp_path}", *flags
        refused = run_command("serve", *given, check=False, config="")
        assert refused.returncode == 2 and words in refused.stderr


@pytest.mark.parametrize("url", ["unix://host/path", "unix:///", "unix://", "unix:qt.sock"])
def test_what_is_no_url_of_a_socket_is_named(url):
    with pytest.raises(UserError, match="is no URL of a policy server; expected .* or unix:///PATH"):
        Client(url)


def test_who_may_not_write_the_file_cannot_connect(path):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with fake.served(unix=UnixSocket(str(path))):
        path.parent.chmod(0o755)
        as_nobody = (
            f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        )
        refused = subprocess.run([sys.executable, "-c", as_nobody], capture_output=True, text=True)
    assert "PermissionError" in refused.stderr
