"""Plain HTTP: every request is answered, none makes the server fail, none delays a robot."""

import contextlib
import http.client
import itertools
import socket
import time

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.serving import access, pages
from qt_jax.serving.access import Access
from qt_jax.serving.client import Client
from tests.serving import fake

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def port():
    with fake.served(access=Access((KEY,)), open_timeout_s=2.0) as port:
        yield port


def status(port: int, request: bytes, host: str = "127.0.0.1") -> int:
    """Returns the status of the answer to these bytes; 0: there is none."""
    with socket.create_connection((host, port), timeout=5) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n" not in answer and (more := connection.recv(4096)):
                answer += more
    return int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def request(line: bytes, *headers: bytes, body: bytes = b"", key: str = KEY) -> bytes:
    own = [b"Host: 127.0.0.1", f"Authorization: Api-Key {key}".encode()]
    return b"\r\n".join([line, *own, *headers, b"", body])


UPGRADE = b"Upgrade: websocket"
ODD = {
    "a path of bytes": (request(b"GET /\xff\xfe HTTP/1.1"), 400),
    "bad percent-encoding": (request(b"GET /frames/%zz/%ff%00?a=%&&=b HTTP/1.1"), 404),
    "a frame of nobody": (request(b"GET /frames///../..//etc/passwd HTTP/1.1"), 404),
    "a session of nobody": (request(b"GET /state/%ff%f0%9f HTTP/1.1"), 200),
    "a bad query": (request(b"GET /?x=%%%[]{}' HTTP/1.1"), 200),
    "a long path": (request(b"GET /" + b"a" * 100_000 + b" HTTP/1.1"), 414),
    "a large header": (request(b"GET / HTTP/1.1", b"X: " + b"a" * 100_000), 431),
    "many headers": (request(b"GET / HTTP/1.1", *[b"X-%d: 1" % n for n in range(1000)]), 431),
    "no colon": (request(b"GET / HTTP/1.1", b"nonsense"), 400),
    "no protocol": (b"GET /\r\n\r\n", 400),
    "another protocol": (b"\x16\x03\x01\x02\x00nonsense\r\n\r\n", 400),
    "two hosts": (request(b"GET / HTTP/1.1", b"Host: localhost"), 400),
    "two keys": (request(b"GET / HTTP/1.1", b"Authorization: Api-Key x"), 400),
    "two upgrades": (request(b"GET / HTTP/1.1", UPGRADE, UPGRADE), 400),
    "a key that is no ASCII": (request(b"GET / HTTP/1.1", key="kéy" * 8), 401),
    "a password that is no base64": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic \xe9=\r\n\r\n",
        401,
    ),
    "an odd host": (b"GET / HTTP/1.1\r\nHost: [::1\xff]:%\r\n\r\n", 403),
    "an odd origin": (request(b"GET / HTTP/1.1", b"Origin: \xff\xfe://["), 403),
    "POST": (request(b"POST /state HTTP/1.1"), 405),
    "OPTIONS": (request(b"OPTIONS * HTTP/1.1"), 405),
    "POST with a body": (request(b"POST / HTTP/1.1", b"Content-Length: 5", body=b"hello"), 400),
    "a body in chunks": (request(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "HEAD": (request(b"HEAD /metrics HTTP/1.1"), 200),
    "an old protocol": (request(b"GET /healthz HTTP/1.0"), 200),
    "an upgrade to nothing": (request(b"GET / HTTP/1.1", b"Upgrade: \xff, h2c"), 200),
    "an upgrade without a key": (request(b"GET / HTTP/1.1", UPGRADE, b"Connection: Upgrade"), 400),
    "an upgrade with a bad key": (
        request(b"GET / HTTP/1.1", UPGRADE, b"Connection: Upgrade", b"Sec-WebSocket-Key: \xe9\xff"),
        400,
    ),
    "an upgrade of POST": (request(b"POST / HTTP/1.1", UPGRADE, b"Connection: Upgrade"), 405),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests_are_refused_by_what_is_wrong(port, name):
    sent, expected = ODD[name]
    assert status(port, sent) == expected


def test_no_bytes_make_the_server_fail(port):
    """Bytes of good requests are changed, left out and added; none has a body, whose length would not fit."""
    rng = np.random.default_rng(0)
    short = [sent for sent, _ in ODD.values() if len(sent) < 1000 and sent.find(b"\r\n\r\n") == len(sent) - 4]
    for good, _ in itertools.product(short, range(40)):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad) - 4, 3):  # the end stays
            other, change = bytes([rng.integers(256)]), rng.integers(3)
            bad[place : place + (0, 1, 1)[change]] = (other, other, b"")[change]
        assert status(port, bytes(bad)) not in (0, 500), bytes(bad)
    with Client(f"ws://127.0.0.1:{port}", KEY) as client:
        assert client.infer(fake.observation())["step"] == 0


def test_head_has_the_length_and_not_the_page(port):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("HEAD", "/", headers={"Authorization": f"Api-Key {KEY}"})
    reply = connection.getresponse()
    assert int(reply.getheader("Content-Length")) > 1000 and reply.read() == b""


def test_slow_readers_of_the_page_delay_no_robot_and_are_not_any_number(port, monkeypatch):
    monkeypatch.setattr(pages, "AT_ONCE", 3)
    sent = request(b"GET /page.js HTTP/1.1")
    with contextlib.ExitStack() as stack, Client(f"ws://127.0.0.1:{port}", KEY) as robot:
        slowest = 0.0
        for _ in range(10):
            reader = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            reader.sendall(sent)
            start = time.perf_counter()
            robot.infer(fake.observation())
            slowest = max(slowest, time.perf_counter() - start)
        assert slowest < 0.5 and status(port, sent) == 503
        assert status(port, request(b"GET /healthz HTTP/1.1")) == 200


def test_ipv6_in_urls_hosts_and_origins(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Robot")
    guard = Access((), access.hosts(["Robot.Lab:8000", "::1"]), access.origins(["http://[FD00::2]:3000/"]))
    assert access.netloc("::1", 80) == "[::1]:80" and access.netloc("127.0.0.1", 80) == "127.0.0.1:80"
    for host in ("[::1]:8000", "[fe80::1%eth0]", "robot.lab", "ROBOT:1", "localhost", "127.0.0.1:8000"):
        assert guard.refusal({"Host": host}) is None, host
    for host in ("[::1", "::1]:80", "", "evil.example", "[evil]:80"):
        assert guard.refusal({"Host": host})[0] == 403, host
    own = {"Host": "[::1]:8000"}
    assert guard.refusal(own | {"Origin": "http://[::1]:8000"}) is None
    assert guard.refusal(own | {"Origin": "http://[fd00::2]:3000"}) is None
    assert guard.refusal(own | {"Origin": "http://[::1]:8001"})[0] == 403
    access.check_bind("::1", False, tls=False, insecure=False)
    for host in ("::", "fd00::2", "::ffff:10.0.0.1"):
        with pytest.raises(UserError, match="can be reached from other machines"):
            access.check_bind(host, False, tls=False, insecure=False)
    with pytest.raises(UserError, match="--allow_host=http://robot.lab is no host name"):
        access.hosts(["http://robot.lab"])
    with pytest.raises(UserError, match="--allow_origin=board.lab is no origin"):
        access.origins(["board.lab"])


def test_a_server_on_ipv6_is_spoken_to():
    with fake.served("::1") as port, Client(f"ws://[::1]:{port}") as client:
        assert client.infer(fake.observation())["step"] == 0
        page = request(b"GET / HTTP/1.1").replace(b"127.0.0.1", b"[::1]:%d" % port)
        assert status(port, page, "::1") == 200
