"""The client's time limits against servers that are slow, stopped or gone, and what it reads and sends."""

import contextlib
import json
import socket
import threading
import time

import numpy as np
import pytest
from websockets.server import ServerProtocol
from websockets.sync.server import serve

from qt_jax.errors import UserError
from qt_jax.policy.observations import Keys
from qt_jax.policy.requests import Refused, Request
from qt_jax.serving import wire
from qt_jax.serving.certificate import Certificate
from qt_jax.serving.client import Client, EpisodeLost, Remote
from tests.serving import fake
from tests.serving.conftest import make_certificate

LIMITS = {"timeout_s": 0.2, "reconnect_s": 0.3}
ALLOWED_S = 0.2 + 0.3 + 1.0


@contextlib.contextmanager
def within(seconds: float):
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.fixture
def silent():
    """The port of a server that takes connections and says nothing, like a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def stopped():
    """The port of a server that says nothing more once it has sent one connection its metadata."""

    def welcome():
        connections.append(listening.accept()[0])
        protocol = ServerProtocol()
        while not (requests := protocol.events_received()):
            protocol.receive_data(connections[0].recv(4096))
        protocol.send_response(protocol.accept(requests[0]))
        protocol.send_binary(wire.pack({}))
        connections[0].sendall(b"".join(protocol.data_to_send()))

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=welcome, daemon=True).start()
        yield listening.getsockname()[1]
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_server_that_says_nothing_at_the_connection_is_given_up_in_time(silent, scheme):
    with within(ALLOWED_S), pytest.raises(UserError, match="does not answer"):
        Client(f"{scheme}://127.0.0.1:{silent}", **LIMITS)


def test_a_handshake_that_comes_byte_by_byte_is_given_up_in_time(silent):
    def drip():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 3:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, daemon=True).start()
        with within(ALLOWED_S), pytest.raises(UserError, match="does not answer"):
            Client(f"ws://127.0.0.1:{listening.getsockname()[1]}", **LIMITS)


@pytest.mark.parametrize("size", [10, 50_000_000])
def test_a_server_that_stops_gives_control_back_in_time(stopped, size):
    """A large request is not even read."""
    client = Client(f"ws://127.0.0.1:{stopped}", **LIMITS)
    with within(ALLOWED_S), pytest.raises(UserError, match="does not answer"):
        client.infer({"prompt": "x" * size})
    with within(ALLOWED_S), pytest.raises(UserError, match="does not answer"):  # and each time again
        client.infer({})
    with within(2 * ALLOWED_S):
        client.disconnect()


def test_a_goodbye_to_a_server_that_stops_ends_in_time(stopped):
    with within(1.5), Client(f"ws://127.0.0.1:{stopped}", **LIMITS) as client:
        assert client.metadata == {}
    client.disconnect()  # again does nothing
    with pytest.raises(UserError, match="is disconnected"):
        client.infer({})


def test_a_late_reply_is_never_taken_for_the_next_ones():
    def answer(connection):
        connection.send(wire.pack({}))
        for number, _ in enumerate(connection):
            time.sleep(0 if number else 0.3)
            connection.send(wire.pack({"number": number}))

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with Client(url, timeout_s=0.2, reconnect_s=2.0) as client:
            with pytest.raises(EpisodeLost, match="did not answer within 0.2 s"):
                client.infer({})
            with pytest.raises(EpisodeLost):  # another connection, whose first request is slow too
                client.infer({})
        server.shutdown()


@pytest.mark.parametrize("greets", [True, False])
@pytest.mark.parametrize(
    "reply", ["Traceback: boom", json.dumps({"error": "x"}), json.dumps([1]), b"\xc1", b"\x91\x01"]
)
def test_a_server_of_another_kind_is_named(reply, greets):
    def answer(connection):
        if greets:
            connection.send(wire.pack({}))
            connection.recv()
        connection.send(reply)
        connection.recv()

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="ws://127.*expected a policy server's reply") as caught:
            with Client(f"ws://127.0.0.1:{server.socket.getsockname()[1]}") as client:
                client.infer({})
        assert not isinstance(caught.value, Refused)  # which would blame the request
        server.shutdown()


@pytest.mark.parametrize("value", [np.zeros(3, ">f4"), np.array([None]), [2**70], {1, 2}, "\ud800"])
def test_what_cannot_be_sent_is_named_and_the_episode_goes_on(value):
    with fake.served() as port, Client(f"ws://127.0.0.1:{port}") as client:
        client.infer(fake.observation())
        with pytest.raises(UserError, match="^Key 'observation/state' of the observation: "):
            client.infer(fake.observation(**{"observation/state": value}))
        with pytest.raises(UserError, match="The instructions are 'open', expected a list"):
            client.values("open")
        assert client.infer(fake.observation())["step"] == 1


def test_a_server_with_ipv6_over_tls(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key, "::1")
    with fake.served("::1", tls=Certificate.read(str(cert), str(key))) as port:
        with Client(f"wss://[::1]:{port}", ca=str(cert)) as client:
            assert client.infer(fake.observation())["step"] == 0
    with pytest.raises(UserError, match=r"IPv6 as \[::1\]"):
        Client(f"ws://::1:{port}")


def test_a_bin_without_a_score_has_none_behind_the_socket_either(monkeypatch):
    """Such as one that the data does not support: an evaluation leaves it white."""
    scores = np.asarray([[[0.25, -np.inf, 0.5, 0.0]] * 2], np.float32)
    monkeypatch.setattr(fake.Policy, "_decide", lambda self, *inputs: (np.full((1, 2), 2, np.int32), scores))
    with fake.served() as port, Client(f"ws://127.0.0.1:{port}") as client:
        image, state = np.zeros((64, 64, 3), np.uint8), np.zeros(3, np.float32)
        keys = Keys.default(fake.SPEC.interface.observation)
        (decision,) = Remote(client, keys).act([Request(0, {"front": image}, state, "open", True)])
    np.testing.assert_array_equal(decision.scores, scores[0])
    assert decision.scores.dtype == np.float32
