"""Keys and certificates that change while the server serves."""

import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from qt_jax.errors import UserError
from qt_jax.serving import access, watching
from qt_jax.serving.access import Access
from qt_jax.serving.certificate import Certificate
from qt_jax.serving.client import Client
from qt_jax.serving.watching import Watched
from tests.conftest import ROOT
from tests.serving import fake
from tests.serving.conftest import make_certificate

OLD, NEW = "old key 0123456789", "new key 0123456789"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(watching, "EVERY_S", 0.02)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def metric(port: int, line: str) -> bool:
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {OLD}"}
    )
    with urllib.request.urlopen(asked, timeout=10) as reply:
        return line in reply.read().decode().splitlines()


def admitted(url: str, key: str) -> bool:
    try:
        with Client(url, key, reconnect_s=0):
            return True
    except UserError as error:
        assert "API key is missing or wrong" in str(error)
        return False


def test_keys_are_rotated_and_robots_that_are_connected_go_on(tmp_path):
    file = tmp_path / "keys"
    file.write_text(OLD)
    guard = Access(access.read_keys(str(file)))

    def read():
        guard.keys = access.read_keys(str(file))

    def change(content: bytes):
        (tmp_path / "next").write_bytes(content)
        os.replace(tmp_path / "next", file)  # as tools that manage secrets do

    with fake.served(access=guard, watched=[Watched("api_key", [str(file)], read)]) as port:
        url = f"ws://127.0.0.1:{port}"
        with Client(url, OLD) as robot:
            assert robot.infer(fake.observation())["step"] == 0
            refused = 'qt_reloads_total{result="refused",what="api_key"}'
            for number, damaged in enumerate((b"short", b"", b"\xff\xfe"), 1):
                change(damaged)
                until(lambda number=number: metric(port, f"{refused} {number}.0"))
            file.unlink()
            until(lambda: metric(port, f"{refused} 4.0"))
            assert guard.keys == (OLD,)
            assert admitted(url, OLD) and not admitted(url, NEW)

            change(f"\n{NEW}\n\n {OLD} \n".encode())  # both for a while
            until(lambda: len(guard.keys) == 2)
            assert admitted(url, OLD) and admitted(url, NEW)
            assert metric(port, 'qt_reloads_total{result="loaded",what="api_key"} 1.0')
            change(NEW.encode())
            until(lambda: guard.keys == (NEW,))
            assert admitted(url, NEW) and not admitted(url, OLD)
            assert robot.infer(fake.observation())["step"] == 1


def test_a_certificate_is_renewed_for_those_who_connect_then(tmp_path):
    paths = [tmp_path / name for name in ("cert", "key", "other cert", "other key")]
    cert, key = map(str, paths[:2])
    make_certificate(*paths[:2], "127.0.0.1")
    make_certificate(*paths[2:], "127.0.0.1")
    tls, results = Certificate.read(cert, key), []

    def renew() -> None:
        try:
            tls.renew()
        except UserError as error:
            results.append(str(error))
            raise
        results.append("renewed")

    def shown(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)

    with fake.served(tls=tls, watched=[Watched("tls", [cert, key], renew)]) as port:
        with Client(f"wss://127.0.0.1:{port}", ca=cert) as robot:
            first = shown(port)
            Path(cert).write_text("nothing")
            until(lambda: len(results) == 1)
            assert "cannot be used" in results[0] and shown(port) == first
            os.replace(paths[2], cert)
            until(lambda: len(results) > 1)  # it may be read before its key is there
            os.replace(paths[3], key)
            until(lambda: results[-1] == "renewed")
            assert shown(port) == Path(cert).read_text() != first
            assert robot.infer(fake.observation())["step"] == 0


def test_it_is_known_while_something_is_read_and_the_end_does_not_wait_for_it(tmp_path):
    file, free = tmp_path / "policy", threading.Event()
    watched = Watched("policy", [str(file)], free.wait)
    assert not watching.under_way()
    with fake.served(watched=[watched]):
        file.touch()
        until(watching.under_way)
    assert watching.under_way()
    free.set()
    until(lambda: not watching.under_way())


def test_a_change_behind_a_link_or_in_a_folder_is_seen(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("1")
    link = tmp_path / "link"
    link.symlink_to("a")
    watched = Watched("policy", [str(link)], lambda: None)
    seen = [watched._signature()]

    def changed() -> bool:
        seen.append(watched._signature())
        return seen[-1] != seen[-2]

    assert not changed()
    (tmp_path / "a" / "file").write_text("22")
    assert changed() and not changed()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_text("22")
    (tmp_path / "new").symlink_to("b")
    os.replace(tmp_path / "new", link)
    assert changed() and not changed()
    link.unlink()
    assert changed() and seen[-1] == ()


ENDS = """
import sys, time
from qt_jax.cli import serve
from qt_jax.errors import UserError
from qt_jax.serving import watching
from qt_jax.serving.threads import in_thread

def failed():
    raise UserError("the disk is full")

in_thread(time.sleep, 60, name=f"{watching._READING} artefact")
serve._serve = failed if sys.argv[1] == "2" else lambda: print("written")
serve.main()
print("not here")
"""


@pytest.mark.parametrize("status, said", [(0, "written\n"), (2, "qt_jax serve: the disk is full\n")])
def test_an_end_while_a_policy_is_compiled_has_the_status_of_any_other(status, said):
    """Python's own end would abort the compilation, and the process with it."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS, str(status)], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (status, said)
