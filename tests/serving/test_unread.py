"""Clients that send and read nothing are held back or cut off; others are served, and the server ends."""

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

NAMES = {"session_id": "🤖" * 100, "request_id": "🤖" * 100}  # the reply repeats them
SENT = 16 * 2**20
"""Bytes that each of three clients sends."""
HELD = 28 * 2**20
"""Bytes that the server may hold: at most 9 MiB of each client were seen (what waits to be sent up to 4 MiB,
what it reads meanwhile, and its log), of the 16 MiB that it would else hold.
"""


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
    """Yields a raw websocket with small buffers that has read the metadata."""
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
    """Sends without reading, and returns what ended it."""
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
    """A function that returns the bytes that Python has taken since the test began, and still holds.

    The process itself may grow by other threads and tests.
    """
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


@pytest.fixture
def small(monkeypatch):
    """Small buffers, as of a slow network: for a client on the same machine the kernel takes megabytes."""
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
def test_a_client_that_reads_no_reply_costs_no_memory_and_no_others_time(kind, small, traced):
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
        handler, start, sent = telemetry.BackgroundHandler(at_most=1000), time.monotonic(), 4000
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
