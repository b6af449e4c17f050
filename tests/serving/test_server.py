"""The server over real sockets: one reply to each request, episodes, batching, limits, strangers' bytes."""

import asyncio
import base64
import collections
import itertools
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from qt_jax.policy.requests import Refused, Request
from qt_jax.policy.sessions import Sessions
from qt_jax.serving import wire
from qt_jax.serving.client import Client, EpisodeLost
from tests.conftest import run_command
from tests.serving import fuzz
from tests.serving.conftest import observations, serve


@pytest.fixture(scope="module")
def alone(artefact):
    """A function that returns the runtime's own decisions in an episode of these observations."""
    policy = artefact.policy()

    def decide(sent: list[dict]) -> list:
        sessions = Sessions(policy, artefact.embeddings().get)
        decisions = []
        for message in sent:
            images = {
                name: message[f"observation/{name}"] for name in artefact.spec.interface.observation.cameras
            }
            state = message.get("observation/state", np.zeros(0, np.float32))
            decisions += sessions.act([Request(0, images, state, message["prompt"])])
        return decisions

    return decide


def refusal(client, message) -> Refused:
    with pytest.raises(Refused) as caught:
        client.infer(message)
    return caught.value


def get(served, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{served.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def resident(served) -> int:
    """Returns the bytes of memory that the server's process holds."""
    return int(Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]) * 4096


def test_an_episode_a_connection_and_the_next_by_reset(served, artefact, alone):
    sent = observations(artefact.spec, 1, 4)
    client, expected = Client(served.url), alone(sent)
    assert client.metadata["observation"]["observation/front"] == {"dtype": "uint8", "shape": [32, 32, 3]}
    assert client.metadata["decode"] == "greedy"
    for _ in range(2):
        for number, (message, decision) in enumerate(zip(sent, expected)):
            reply = client.infer(
                message | {"reset": number == 0, "request_id": number, "return_scores": True}
            )
            assert reply["actions"].shape == (1, 4) and reply["step"] == reply["request_id"] == number
            np.testing.assert_allclose(reply["scores"], decision.scores, atol=1e-5)
            assert reply["score"] == reply["scores_of_dims"][-1] and reply["server_timing"]["total_ms"] > 0
    client.disconnect()
    again = Client(served.url)
    assert again.infer(sent[0])["step"] == 0  # another connection never continues an episode
    again.disconnect()


def test_what_is_wrong_is_named_and_the_connection_stays_usable(served, artefact):
    good = observations(artefact.spec, 2, 1)[0]
    client = Client(served.url)

    def without(key):
        return {k: v for k, v in good.items() if k != key}

    front, bad = good["observation/front"], "bad_observation"
    small = {"observation/front": np.zeros((8, 8, 3), np.uint8)}
    infinite = {"observation/state": np.full(4, np.inf, np.float32)}
    cases = [
        (without("observation/front"), bad, "'observation/front' is missing"),
        (good | {"observation/wrist": front}, bad, "unknown key 'observation/wrist'"),
        (good | small, bad, "key 'observation/front' is uint8[8, 8, 3]"),
        (good | {"observation/front": front.astype(np.float32)}, bad, "key 'observation/front' is float32"),
        (good | infinite, bad, "key 'observation/state' holds NaN or Inf"),
        (good | {"observation/state": np.zeros(3, np.float32)}, bad, "key 'observation/state' is float32[3]"),
        (without("prompt"), bad, "'prompt'"),
        (good | {"reset": 1}, bad, "'reset' is '1', expected bool"),
        (good | {"deadline_ms": -1}, bad, "'deadline_ms' is -1"),
        (good | {"seed": -1}, bad, "'seed' is -1, expected 0 or more"),
        (good | {"seed": 0.5}, bad, "'seed' is '0.5', expected int"),
        ({"values": ["open it"], "session_id": "nobody"}, "unknown_session", "no observation yet"),
        ({"values": []}, bad, "'values'"),
        (good | {"label": {"success": True}}, "not_recording", "--record"),
    ]
    for message, code, words in cases:
        refused = refusal(client, message)
        assert (refused.code, refused.in_history) == (code, False) and words in str(refused)
    assert client.infer(good)["step"] == 0
    low, high = np.asarray(client.metadata["action"]["low"]), np.asarray(client.metadata["action"]["high"])
    actions = client.infer(good)["actions"][0]
    assert (actions >= low).all() and (actions <= high).all()
    client.disconnect()


def test_values_of_instructions(served, artefact, alone):
    sent = observations(artefact.spec, 3, 3)
    client = Client(served.url)
    for message in sent:
        client.infer(message)
    names = ["open the faucet", "close the faucet"]
    expected = [alone([m | {"prompt": name} for m in sent])[-1].scores[0].max() for name in names]
    np.testing.assert_allclose(client.values(names), expected, atol=1e-5)
    client.disconnect()


def test_64_sessions_get_their_own_replies_and_memory_stays(served, artefact, alone):
    """There are 32 connections of two sessions each, all at once."""
    steps, sessions, period = 200, 64, 12
    scripts = [observations(artefact.spec, seed, period) for seed in range(sessions)]
    window = artefact.spec.window
    # Once its window is full, an episode repeats.
    expected = [[d.scores for d in alone(script + script[:window])] for script in scripts]

    async def robot(connection, script, name):
        rows = []
        for step in range(steps):
            names = {"session_id": name, "request_id": step, "return_scores": True}
            await connection.send(wire.pack(script[step % period] | names))
            reply = await inbox[name].get()
            assert (reply["session_id"], reply["request_id"], reply["step"]) == (name, step, step)
            rows.append(reply["scores"])
        return rows

    inbox = {}

    async def pair(number):
        async with connect(served.url, compression=None) as connection:
            await connection.recv()
            names = [f"s{2 * number}", f"s{2 * number + 1}"]
            inbox.update({name: asyncio.Queue() for name in names})

            async def read():
                async for message in connection:
                    reply = wire.unpack(message)
                    inbox[reply["session_id"]].put_nowait(reply)

            reader = asyncio.create_task(read())
            rows = await asyncio.gather(
                *(robot(connection, scripts[2 * number + i], name) for i, name in enumerate(names))
            )
            reader.cancel()
            return rows

    async def everybody():
        return [
            rows for both in await asyncio.gather(*(pair(n) for n in range(sessions // 2))) for rows in both
        ]

    before = resident(served)
    found = asyncio.run(everybody())
    assert resident(served) - before < 100 * 2**20
    for rows, decided in zip(found, expected):
        assert len(rows) == steps
        for step, one in enumerate(rows):
            other = decided[step if step < period else (step - window) % period + window]
            finite = np.isfinite(other)
            np.testing.assert_allclose(one[finite], other[finite], atol=1e-4)
    assert b'qt_batch_size_bucket{le="64.0"}' in get(served, "/metrics")[1]


def test_a_newer_observation_supersedes_one_that_waits(served, artefact, alone):
    """Of many at once in one session each gets one reply; the history holds those that got an action."""
    sent = observations(artefact.spec, 4, 12)

    async def burst():
        async with connect(served.url, compression=None) as connection:
            await connection.recv()
            for number, message in enumerate(sent):
                await connection.send(wire.pack(message | {"request_id": number, "return_scores": True}))
            return [await connection.recv() for _ in sent]

    replies = asyncio.run(burst())
    errors = [json.loads(reply) for reply in replies if isinstance(reply, str)]
    served_ones = [wire.unpack(reply) for reply in replies if isinstance(reply, bytes)]
    assert errors and all((e["error"], e["in_history"]) == ("superseded", False) for e in errors)
    numbers = sorted([e["request_id"] for e in errors] + [r["request_id"] for r in served_ones])
    assert numbers == list(range(12)) and served_ones[-1]["request_id"] == 11
    decisions = alone([sent[reply["request_id"]] for reply in served_ones])
    for reply, decision in zip(served_ones, decisions):
        np.testing.assert_allclose(reply["scores"], decision.scores, atol=1e-5)


def test_a_late_reply_says_whether_its_frame_counts(served, artefact):
    sent = observations(artefact.spec, 5, 2)
    client = Client(served.url)
    refused = refusal(client, sent[0] | {"deadline_ms": 0.001})
    assert refused.code == "late" and client.infer(sent[1])["step"] == int(refused.in_history)
    client.disconnect()


def test_a_reset_that_is_superseded_or_late_holds_for_the_next(served, artefact):
    sent = observations(artefact.spec, 9, 3)

    async def burst(number):
        async with connect(served.url, compression=None) as connection:
            await connection.recv()
            await connection.send(wire.pack(sent[0]))
            await connection.recv()
            for message in (sent[0], sent[1] | {"reset": True}, sent[2]):
                await connection.send(wire.pack(message))
            replies = [await connection.recv() for _ in range(3)]
            return [wire.unpack(reply)["step"] for reply in replies if isinstance(reply, bytes)][-1]

    # At most one step after the reset, never the third one of the old episode.
    assert all(asyncio.run(burst(number)) < 2 for number in range(10))

    client = Client(served.url)
    assert [client.infer(sent[0])["step"] for _ in range(3)] == [0, 1, 2]
    refused = refusal(client, sent[1] | {"reset": True, "deadline_ms": 0.001})
    assert client.infer(sent[2])["step"] == int(refused.in_history)
    client.disconnect()


def test_2000_malformed_messages_get_an_error_each_and_the_server_serves_on(served, artefact):
    """Good robots act meanwhile, and the server's memory stays."""
    rng, good = np.random.default_rng(0), observations(artefact.spec, 6, 1)[0]
    codes: collections.Counter = collections.Counter()

    async def fuzz_it(count):
        async with connect(served.url, compression=None, max_size=None) as connection:
            await connection.recv()
            for _ in range(count):
                await connection.send(fuzz.message(rng, good))
                reply = await asyncio.wait_for(connection.recv(), 10)
                assert isinstance(reply, bytes) or "Traceback" not in reply
                codes[json.loads(reply)["error"] if isinstance(reply, str) else "ok"] += 1

    async def robot(ends):
        async with connect(served.url, compression=None) as connection:
            await connection.recv()
            for step in itertools.count():
                await connection.send(wire.pack(good))
                assert wire.unpack(await asyncio.wait_for(connection.recv(), 10))["step"] == step
                if ends.is_set():
                    return step
                await asyncio.sleep(0.01)

    async def everybody():
        ends = asyncio.Event()
        acting = asyncio.create_task(robot(ends))
        await asyncio.gather(*(fuzz_it(250) for _ in range(8)))
        ends.set()
        return await acting

    silent = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(5)]
    silent[0].sendall(b"GET / HTTP/1.1\r\nHost: 127")  # and no more
    silent[1].sendall(b"\x16\x03\x01nonsense\r\n\r\n")
    before = resident(served)
    assert asyncio.run(everybody()) > 20
    assert resident(served) - before < 30 * 2**20
    assert sum(codes.values()) == 2000 and not {"internal", "episode_lost"} & set(codes), codes
    for connection in silent:
        connection.close()
    assert get(served, "/healthz")[1].startswith(b"OK\n")
    assert "Traceback" not in served.log.read_text() and '"traceback"' not in served.log.read_text()


def test_a_message_that_is_too_large_closes_its_connection_alone(served, artefact):
    client, other = Client(served.url), Client(served.url)
    with pytest.raises(EpisodeLost, match="too big|1009"):
        client.infer({"observation/front": np.zeros((4000, 4000, 3), np.uint8)})
    good = observations(artefact.spec, 7, 1)[0]
    assert other.infer(good)["step"] == client.infer(good)["step"] == 0  # it reconnected, to a new episode
    client.disconnect()
    other.disconnect()


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 200),
    ],
)
def test_other_pages_are_kept_out(served, headers, status):
    assert get(served, "/metrics", **headers)[0] == status
    if "Origin" in headers:
        with pytest.raises(InvalidStatus, match=str(status)):
            asyncio.run(connected(served, headers))


async def connected(served, headers):
    async with connect(served.url, additional_headers=headers) as connection:
        return await connection.recv()


def test_the_key_guards_everything_but_health(artefact, tmp_path):
    serving = serve(artefact.path, tmp_path / "log", "--max_sessions=1", QT_JAX_API_KEY="k" * 32)
    try:
        basic = "Basic " + base64.b64encode(b"me:" + b"k" * 32).decode()
        for path in ("/", "/page.js", "/state", "/metrics", "/frames/0/front"):
            assert get(serving, path)[0] == get(serving, path, Authorization="Api-Key wrong")[0] == 401
            assert get(serving, path, Authorization=basic)[0] in (200, 404)
        assert get(serving, "/healthz")[0] == 200
        with pytest.raises(Exception, match="API key is missing or wrong"):
            Client(serving.url, reconnect_s=0)
        good, client = observations(artefact.spec, 8, 1)[0], Client(serving.url, api_key="k" * 32)
        assert client.infer(good)["step"] == 0
        full = refusal(client, good | {"session_id": "second"})  # one session at once
        assert full.code == "sessions_full"
        assert serving.end() == 0
        with pytest.raises(Exception, match="does not answer"):
            Client(serving.url, reconnect_s=0)
    finally:
        serving.process.kill()


def test_what_would_be_open_to_the_world_is_refused(artefact, monkeypatch, tmp_path):
    monkeypatch.delenv("QT_JAX_API_KEY", raising=False)
    refused = run_command("serve", f"--artefact={artefact.path}", "--host=0.0.0.0", check=False, config="")
    assert refused.returncode == 2 and "--host=0.0.0.0 can be reached from other machines" in refused.stderr
    nothing = run_command("serve", f"--artefact={tmp_path}", "--port=0", check=False, config="")
    assert nothing.returncode == 2 and "holds no policy.json; give the folder" in nothing.stderr
