"""Clients that send and read nothing: they are held back or cut off, others are served, the server ends."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
import tracemalloc
from concurrent import futures

import numpy as np
import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from qt_jax.serving import telemetry, wire
from qt_jax.serving.client import Client
from tests.serving import fake

NAMES = {"session_id": "🤖" * 100, "request_id": "🤖" * 100}  # which come back
SENT = 16 * 2**20
"""By each of three clients."""
HELD = 20 * 2**20
"""At most, by a server that cuts each of them off at 4 MiB; it would hold all 48 that were sent, and more."""


def message(kind: str) -> bytes:
    floats = {"observation/front": np.zeros((64, 64, 3))}
    binary = {
        "refused": lambda: wire.pack(fake.observation() | floats | NAMES),
        "served": lambda: wire.pack(fake.observation(return_scores=True) | NAMES),
    }
    if kind == "ping":
        return Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    return Frame(Opcode.BINARY, binary[kind]()).serialize(mask=True)


@contextlib.contextmanager
def connected(port: int):
    """A raw websocket that has read the metadata, and has small buffers."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        raw.connect(("127.0.0.1", port))
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}"))
        protocol.send_request(protocol.connect())
        raw.sendall(b"".join(protocol.data_to_send()))
        raw.recv(1000)
        yield raw


def flood(raw: socket.socket, data: bytes) -> str:
    """What ended it."""
    raw.settimeout(0.3)
    data *= max(1, 2**16 // len(data))
    try:
        for _ in range(SENT // len(data)):
            raw.sendall(data)
    except TimeoutError:
        return "held back"
    except OSError:
        return "cut off"
    return "all was taken"


@pytest.fixture
def traced():
    """A function that gives the bytes that Python holds since the test began.

    What the process has beside is others'.
    """
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


@pytest.fixture
def small(monkeypatch):
    """The kernel takes megabytes for a client on the same machine; a slow network does not."""
    monkeypatch.setattr("qt_jax.serving.server.CLOSE_S", 0.2)
    create = asyncio.base_events.BaseEventLoop.create_server

    async def smaller(loop, *arguments, **options):
        server = await create(loop, *arguments, **options)
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        return server

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "create_server", smaller)


@pytest.mark.parametrize("kind", ["refused", "served", "ping"])
def test_who_reads_no_reply_costs_no_memory_and_nobody_elses_time(kind, small, traced):
    with contextlib.ExitStack() as stack, fake.served(pending=16) as port:
        robot = stack.enter_context(Client(f"ws://127.0.0.1:{port}"))
        robot.infer(fake.observation())
        connections = [stack.enter_context(connected(port)) for _ in range(3)]
        before, slowest = traced(), 0.0
        with futures.ThreadPoolExecutor() as pool:
            ends = [pool.submit(flood, raw, message(kind)) for raw in connections]
            while not all(end.done() for end in ends):
                start = time.perf_counter()
                robot.infer(fake.observation())
                slowest = max(slowest, time.perf_counter() - start)
        assert "all was taken" not in [end.result() for end in ends]
        assert traced() - before < HELD and slowest < 5.0
        ends_at = time.monotonic() + 8
        stack.callback(lambda: ends.append(time.monotonic() < ends_at))
    assert ends[-1]  # the server's end does not wait for them


def test_a_log_that_nobody_reads_holds_up_no_robot(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(reader) as read, os.fdopen(writer, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        handler, start, sent = telemetry.Unhurried(at_most=1000), time.monotonic(), 4000
        for number in range(sent):  # more than pipe and handler take
            handler.handle(logging.makeLogRecord({"msg": f"{number:100}"}))
        assert time.monotonic() - start < 2
        numbers, dropped = [], 0
        while len(numbers) + dropped < sent:
            line = read.readline()
            if "dropped" in line:
                dropped += json.loads(line)["count"]
            else:
                numbers.append(int(line))
        assert dropped and numbers[:600] == list(range(600)) and numbers == sorted(numbers)
        handler._finish()
