"""How a server begins and ends: signals, and a terminal that is gone."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy.sessions import Sessions
from qt_jax.serving import process
from qt_jax.serving.access import Access
from qt_jax.serving.policies import Served
from qt_jax.serving.server import Limits
from tests.serving import fake


@pytest.fixture
def handlers():
    """As they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Listening:
    """A server that a signal ends."""

    @contextlib.asynccontextmanager
    async def listening(self, host, port, tls, unix):
        with socket.create_server((host, port), family=socket.AF_INET6) as listening:
            asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), self.number)
            yield SimpleNamespace(sockets=[listening])

    def __init__(self, number: signal.Signals):
        self.number = number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_signal_that_ends_a_server_ends_it_in_order(number, handlers, capfd):
    signal.signal(number, signal.default_int_handler)
    asyncio.run(asyncio.wait_for(process.listen(Listening(number), process.Address("::1", 0)), 5))
    printed = capfd.readouterr().out
    assert (
        "serving ws://[::1]:" in printed and "(page: http://[::1]:" in printed and "shutting down" in printed
    )


def test_a_server_of_nohup_stays(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(TimeoutError):
        asyncio.run(
            asyncio.wait_for(process.listen(Listening(signal.SIGHUP), process.Address("::1", 0)), 0.3)
        )


def serve(paths: list[str], *, shadow: str = "", reload: bool = False) -> None:
    process.serve(
        process.Artefacts(paths, reload=reload, shadow=shadow),
        process.Address("127.0.0.1", 0),
        keys="",
        capacity=1,
        budget_s=0.0,
        access=Access(),
        limits=Limits(),
    )


def test_what_cannot_be_served_is_refused_before_anything_is_compiled(artefact, tmp_path, monkeypatch):
    monkeypatch.setattr(process.Loader, "load", lambda *_: pytest.fail("it is compiled"))
    path = str(artefact.path)
    for paths, shadow, words in (
        ([path, path], "", "is one policy; give another one"),
        ([path, str(tmp_path)], "", "holds no policy.json"),
        ([path], str(tmp_path), "holds no policy.json"),
    ):
        with pytest.raises(UserError, match=words):
            serve(paths, shadow=shadow)


def test_an_artefact_that_changes_while_it_is_compiled_is_loaded_again(
    artefact, tmp_path, monkeypatch, handlers
):
    link, loaded = tmp_path / "policy", []
    link.symlink_to(artefact.path)
    shutil.copytree(artefact.path, tmp_path / "newer")

    def load(loader, path, check):
        loaded.append(os.readlink(path))
        if len(loaded) == 1:
            link.unlink()
            link.symlink_to("newer")
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        sessions = Sessions(
            fake.Policy(1), lambda sentence: np.ones(4, np.float32), reserved=1, name=str(len(loaded))
        )
        return Served(sessions, {"artefact": "fake"})

    monkeypatch.setattr(process.Loader, "load", load)
    serve([str(link)], reload=True)
    assert loaded == [str(artefact.path), "newer"]


def test_what_is_printed_to_nobody_does_not_end_the_server(monkeypatch):
    terminal, gone = os.openpty()
    reader, pipe = os.pipe()
    os.close(terminal)
    os.close(reader)
    with os.fdopen(gone, "w") as out, os.fdopen(pipe, "w") as errors:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", errors)
        with pytest.raises(OSError):
            os.write(out.fileno(), b"x")
        process.say("shutting down")
        print("an error", file=sys.stderr, flush=True)
