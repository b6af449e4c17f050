"""A server whose device the test can hold: what happens at its limits, at its end and after a failure."""

import asyncio
import contextlib
import json
import threading
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qt_jax.errors import UserError
from qt_jax.policy.observations import Keys
from qt_jax.policy.sessions import Sessions
from qt_jax.serving import recording, wire
from qt_jax.serving.access import Access
from qt_jax.serving.client import Client
from qt_jax.serving.policies import Policies, Served
from qt_jax.serving.server import Limits, Server
from qt_jax.serving.spool import Spool
from tests.conftest import run_command
from tests.serving.conftest import make_certificate, observations, serve


@pytest.fixture(scope="module")
def policy(artefact):
    policy = artefact.policy(4, (1, 4))
    policy.warm_up()
    return policy


@pytest.fixture
def device(policy, monkeypatch):
    """A `Device` that the policy's calls go through."""
    act, device = policy.act, Device()

    def gated(*arguments, **named):
        device.entered.set()
        assert device.free.wait(20)
        if device.failing:
            device.failing = False
            raise RuntimeError("the device fell over")
        return act(*arguments, **named)

    monkeypatch.setattr(policy, "act", gated)
    return device


class Device:
    """Holds the policy's next call (`hold`) until `free` is set; `failing` makes one call raise."""

    def __init__(self):
        self.free, self.entered, self.failing = threading.Event(), threading.Event(), False
        self.free.set()

    def hold(self):
        self.free.clear()
        self.entered.clear()

    async def busy(self):
        assert await asyncio.to_thread(self.entered.wait, 10)


@contextlib.asynccontextmanager
async def hosted(artefact, policy, budget_s=0.002, recorder=None, **limits):
    """Yields the URL of a server that ends with the block."""
    sessions = Sessions(policy, artefact.embeddings().get, reserved=1)
    policies = Policies([Served(sessions, {"artefact": "tiny"})])
    server = Server(policies, limits=Limits(**limits), budget_s=budget_s, recorder=recorder)
    async with server.listening("127.0.0.1", 0) as listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def robot(url):
    async with connect(url, compression=None) as connection:
        await connection.recv()
        yield connection


async def ask(connection, message):
    await connection.send(wire.pack(message))
    return answer(await connection.recv())


def answer(reply):
    return json.loads(reply) if isinstance(reply, str) else wire.unpack(reply)


@pytest.fixture
def good(artefact):
    return observations(artefact.spec, 1, 1)[0]


async def stream(url):
    return await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def test_who_does_not_finish_a_handshake_or_a_message_is_let_go(artefact, policy, good):
    async def scene():
        async with hosted(artefact, policy, open_timeout_s=0.5, idle_timeout_s=1.0) as url:
            half, half_writer = await stream(url)
            half_writer.write(b"GET / HTTP/1.1\r\nHost: 127")
            slow, slow_writer = await stream(url)
            slow_writer.write(HANDSHAKE)
            assert b"101 Switching Protocols" in await slow.readuntil(b"\r\n\r\n")
            slow_writer.write(b"\x82\xff" + (10_000).to_bytes(8, "big") + b"mask" + b"only a little of it")
            async with robot(url) as connection:
                assert (await ask(connection, good))["step"] == 0
                await asyncio.wait_for(half.read(), 3)  # until the server closes it
                await asyncio.wait_for(slow.readuntil(b"\x03\xe8idle"), 3)  # the close of a websocket, 1000
                with pytest.raises(ConnectionClosed, match="idle"):
                    await asyncio.wait_for(connection.recv(), 3)
            for writer in (half_writer, slow_writer):
                writer.close()

    asyncio.run(scene())


def test_a_connection_may_not_have_any_number_of_requests_open(artefact, policy, good, device):
    async def scene():
        async with hosted(artefact, policy, pending=2) as url, robot(url) as connection:
            device.hold()
            for number in range(4):
                await connection.send(wire.pack(good | {"session_id": number, "request_id": number}))
            refused = [answer(await connection.recv()) for _ in range(2)]
            assert [(r["error"], r["request_id"]) for r in refused] == [("overloaded", 2), ("overloaded", 3)]
            device.free.set()
            assert [answer(await connection.recv())["step"] for _ in range(2)] == [0, 0]

    asyncio.run(scene())


def test_the_end_answers_what_is_under_way_and_refuses_what_comes(artefact, policy, good, device):
    async def scene():
        async with contextlib.AsyncExitStack() as stack:
            server = hosted(artefact, policy)
            url = await server.__aenter__()
            connection = await stack.enter_async_context(robot(url))
            device.hold()
            await connection.send(wire.pack(good | {"request_id": "first"}))
            await device.busy()
            ending = asyncio.create_task(server.__aexit__(None, None, None))
            await asyncio.sleep(0.05)
            assert (await ask(connection, good | {"request_id": "second"}))["error"] == "shutting_down"
            with pytest.raises(InvalidStatus, match="503"):
                await robot(url).__aenter__()
            device.free.set()
            reply = answer(await connection.recv())
            assert (reply["request_id"], reply["step"]) == ("first", 0)
            with pytest.raises(ConnectionClosed, match="1001"):
                await connection.recv()
            await ending

    asyncio.run(scene())


def test_after_a_failure_every_episode_begins_anew(artefact, policy, good, device):
    async def scene():
        async with hosted(artefact, policy) as url, robot(url) as one, robot(url) as other:
            assert [(await ask(connection, good))["step"] for connection in (one, other)] == [0, 0]
            device.failing = True
            refused = await ask(one, good)
            assert refused["error"] == "internal" and "fell over" not in refused["message"]
            for connection in (one, other):
                assert (await ask(connection, good))["error"] == "episode_lost"
                assert (await ask(connection, good | {"reset": True}))["step"] == 0
                assert (await ask(connection, good))["step"] == 1

    asyncio.run(scene())


def test_robots_that_are_active_wait_for_each_other_within_the_budget_and_a_lone_one_never(
    artefact, policy, good
):
    async def scene():
        async with hosted(artefact, policy, budget_s=0.3) as url, robot(url) as one, robot(url) as other:

            def queue_ms(reply):
                return reply["server_timing"]["queue_ms"]

            assert max([queue_ms(await ask(one, good)) for _ in range(3)]) < 150  # alone
            both = await asyncio.gather(ask(one, good), ask(other, good))
            both = await asyncio.gather(ask(one, good), ask(other, good))
            assert [reply["server_timing"]["batch"] for reply in both] == [2, 2]
            assert max(map(queue_ms, both)) < 150
            assert queue_ms(await ask(one, good)) > 250  # the other may ask yet
            await asyncio.sleep(0.6)
            assert queue_ms(await ask(one, good)) < 150  # it did not for half a second

    asyncio.run(scene())


def test_hosts_and_origins_that_are_allowed():
    access = Access((), frozenset({"robot.lab"}), frozenset({"https://board.lab"}))
    assert access.refusal({"Host": "robot.lab:8000"}) is None
    assert access.refusal({"Host": "other.lab:8000"})[0] == 403
    assert access.refusal({"Host": "robot.lab:8000", "Origin": "https://board.lab"}) is None
    assert access.refusal({"Host": "robot.lab:8000", "Origin": "https://evil.example"})[0] == 403


def test_over_tls_with_a_certificate_of_our_own(artefact, good, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(cert, key, "127.0.0.1")
    serving = serve(
        artefact.path, tmp_path / "log", "--max_sessions=1", f"--tls_cert={cert}", f"--tls_key={key}"
    )
    try:
        start = time.monotonic()
        with pytest.raises(UserError, match="certificate that is not trusted"):
            Client(serving.url)
        assert time.monotonic() - start < 5  # not tried again
        client = Client(serving.url, ca=str(cert))
        assert client.infer(good)["step"] == 0
        client.disconnect()
        taken = run_command(
            "serve", f"--artefact={artefact.path}", f"--port={serving.port}", check=False, config=""
        )
        assert taken.returncode == 2 and "choose another --port" in taken.stderr
        assert "compiling" not in taken.stdout
        assert serving.end() == 0
    finally:
        serving.process.kill()
    with pytest.raises(UserError, match="holds no certificates"):
        Client(serving.url, ca=str(tmp_path / "log"))


@pytest.mark.parametrize(
    "given, words",
    [
        ({"state": ["joints", "reset"]}, r"uses \['reset'\] for more than one thing"),
        ({"prompt": 5}, "'prompt' is 5, expected a key"),
        ({"cameras": {"front": 5}}, "'cameras' is {'front': 5}, expected an object"),
        ({"cameras": ["front"]}, r"'cameras' is \['front'\], expected an object"),
    ],
)
def test_keys_that_no_robot_could_send_are_named(artefact, tmp_path, given, words):
    names = tmp_path / "keys.json"
    names.write_text(json.dumps(given))
    with pytest.raises(UserError, match=words):
        Keys.read(str(names), artefact.spec.interface.observation)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "127.0.0.1:8000", "ws://127.0.0.1:99999"])
def test_what_is_no_url_of_a_server_is_refused_at_once(url):
    with pytest.raises(UserError, match="is no URL of a policy server"):
        Client(url)


def test_a_key_with_a_line_break_is_not_printed():
    with pytest.raises(UserError, match="holds what no header may") as caught:
        Client("ws://127.0.0.1:1", api_key="se\ncret")
    assert "cret" not in str(caught.value)


def test_a_label_that_is_refused_leaves_its_episode_as_it_was(artefact, policy, good, tmp_path):
    embedding = artefact.embeddings()[good["prompt"]]
    without_prompt = {key: value for key, value in good.items() if key != "prompt"}
    embedded = without_prompt | {"instruction_embedding": embedding}
    last = good | {"label": {"success": True}}

    async def scene(spool):
        recorder = recording.Recorder(spool)
        async with hosted(artefact, policy, recorder=recorder) as url, robot(url) as connection:
            assert (await ask(connection, embedded))["step"] == 0
            assert "send the sentence" in (await ask(connection, last))["message"]
            assert (await ask(connection, good))["step"] == 1
            assert "recorded" in await ask(connection, last)
            assert (await ask(connection, good))["step"] == 0

    with Spool(tmp_path / "spool") as spool:
        asyncio.run(scene(spool))
        assert len(spool.files()) == 1
