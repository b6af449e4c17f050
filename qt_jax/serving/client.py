"""A thin client of the policy server, of numpy, msgpack and websockets.

A robot that has `openpi-client` does not need it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import ssl
import threading
import time
from collections.abc import Coroutine, Hashable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from qt_jax.errors import UserError
from qt_jax.policy.observations import CANDIDATES, Keys
from qt_jax.policy.requests import Decision, Refused, Request
from qt_jax.serving import wire
from qt_jax.serving.unix import SCHEME

T = TypeVar("T")
_CERTIFICATE_REMEDIES = dict.fromkeys((9, 10), "renew it at the server, or set this machine's clock")
"""By OpenSSL's code: 9 is of a certificate that is not valid yet, 10 of one that has expired."""
_PAUSE_S = 0.2
"""Seconds between two attempts to connect."""
_LEAST_S = 1.0
"""Seconds that an attempt to connect again gets at least, and the closing handshake at most."""


class EpisodeLost(UserError):
    """Says that the connection broke in the middle of an episode.

    The connection is open again, but the episode is lost: put the robot where one may begin, and reset.
    """


class Client:
    """One connection to a policy server; a context manager that disconnects.

    Every request waits for its reply. The connection has a thread of its own, and the caller waits for that
    thread alone, so that control comes back in time whatever the network does. Not thread-safe.

    Args:
        url: ws://HOST:PORT or wss://HOST:PORT, where an IPv6 address stands in brackets; or unix:///PATH of
            a server on this machine (`serve --socket=/PATH`).
        api_key: the server's API key, if it has one.
        timeout_s: seconds for the connection, and for each reply.
        reconnect_s: seconds for which a lost connection is tried again (at least once).
        ca: PEM file of the certificates to trust, for a wss:// server with a certificate of its own; default:
            the system's.

    Attributes:
        metadata: what the server says of its policy: observation, action, control period and more.

    Raises:
        UserError: if there is no server, it refuses the key, or its certificate is not trusted.

    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        reconnect_s: float = 10.0,
        ca: str | None = None,
    ):
        _check_url(url)
        if api_key is not None and not (api_key := api_key.strip()).isprintable():
            raise UserError("The API key holds what no header may; expected printable ASCII on one line.")
        self._url, self._key, self._timeout_s, self._reconnect_s = url, api_key, timeout_s, reconnect_s
        self._tls = _trusting(ca) if url.startswith("wss:") else None
        self._connection: ClientConnection | None = None
        self._thread: _Thread | None = _Thread()
        try:
            self._connect(timeout_s)
        except BaseException:
            self.disconnect()
            raise

    def _connect(self, first_s: float) -> None:
        """Tries to connect for `reconnect_s`; the first attempt may take `first_s`."""
        end, attempt_s = time.monotonic() + self._reconnect_s, first_s
        while True:
            try:
                return self._wait(self._open(), attempt_s)
            except InvalidStatus as error:
                body = error.response.body.decode(errors="replace").strip()
                reason = f"{error.response.status_code}: {body}"
                raise UserError(f"{self._url} refuses the connection ({reason}).") from None
            except ssl.SSLCertVerificationError as error:
                problem = f"has a certificate that is not trusted ({error.verify_message})"
                remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, "give the PEM file of one that is")
                raise UserError(f"{self._url} {problem}; {remedy}.") from None
            except (OSError, WebSocketException, ValueError) as error:
                self._drop()
                if time.monotonic() + _PAUSE_S > end:
                    reason = f"{type(error).__name__}: {error}".removesuffix(": ")
                    what = "start it, or correct the URL (wss:// is with TLS)"
                    raise UserError(f"{self._url} does not answer ({reason}); {what}.") from None
                time.sleep(_PAUSE_S)
                attempt_s = min(self._timeout_s, max(end - time.monotonic(), _LEAST_S))

    async def _open(self) -> None:
        if self._connection is not None:  # an attempt succeeded just as it was given up
            self._connection.transport.abort()
        local = self._url.startswith(SCHEME)
        opened = functools.partial(unix_connect if local else connect, self._url.removeprefix(SCHEME))
        self._connection = await opened(
            ssl=self._tls,
            additional_headers={"Authorization": f"Api-Key {self._key}"} if self._key else None,
            compression=None,
            max_size=None,
            open_timeout=None,
            close_timeout=_LEAST_S,
        )
        self.metadata = _read(await self._connection.recv(), self._url)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Sends one request and returns its reply (docs/robot.md lists the keys of both).

        Args:
            observation: {key: value} as the server's metadata describes it.

        Raises:
            Refused: if the server refuses the request, with its code and, where the policy's limits say so,
                what the robot does instead (`fallback`); the connection stays usable.
            EpisodeLost: if the connection broke or no reply came in time; the connection is open again.
            UserError: if it cannot be opened again, or the observation cannot be sent.

        """
        message = _packed(observation)
        if self._thread is None:
            raise UserError(f"This client of {self._url} is disconnected; make another one.")

        try:
            if self._connection is None:
                raise ConnectionError("it was lost before")
            reply = self._wait(self._ask(self._connection, message), self._timeout_s)
        except (OSError, ConnectionClosed) as error:
            self._drop()  # a late reply must not be taken for that of the next request
            self._connect(min(self._timeout_s, max(self._reconnect_s, _LEAST_S)))
            if isinstance(error, TimeoutError):
                what = f"{self._url} did not answer within {self._timeout_s:g} s"
            else:
                what = f"The connection to {self._url} broke ({error})"
            raise EpisodeLost(f"{what}; the episode is lost, begin a new one.") from None
        except BaseException:  # Ctrl-C: the reply is still to come
            self._drop()
            raise
        return _read(reply, self._url)

    @staticmethod
    async def _ask(connection: ClientConnection, message: bytes) -> bytes | str:
        await connection.send(message)
        return await connection.recv()

    def _wait(self, coroutine: Coroutine[Any, Any, T], at_most_s: float) -> T:
        """Returns the coroutine's result. Raises TimeoutError if it does not come in time."""
        assert self._thread is not None
        future = asyncio.run_coroutine_threadsafe(coroutine, self._thread.loop)
        try:
            return future.result(at_most_s)
        except concurrent.futures.TimeoutError:  # another class than Python's own in 3.10
            future.cancel()
            raise TimeoutError from None
        except BaseException:
            future.cancel()
            raise

    def _drop(self) -> None:
        """Closes the connection at once, without a closing handshake."""
        connection, self._connection = self._connection, None
        if connection is not None and self._thread is not None:
            self._thread.loop.call_soon_threadsafe(connection.transport.abort)

    def values(self, instructions: Sequence[str], session: str | int | None = None) -> np.ndarray:
        """Returns the value of each instruction in the session's last observation, float32 [K].

        Args:
            instructions: K sentences.
            session: the session's `session_id`; None: the connection's session without one.

        Raises:
            Refused, EpisodeLost, UserError: as `infer`.

        """
        if isinstance(instructions, str):  # else each letter would be an instruction
            raise UserError(f"The instructions are {instructions[:50]!r}, expected a list.")
        return self.infer({"values": list(instructions)} | _named(session))["values"]

    @property
    def candidates(self) -> int:
        """Most candidates that `rank` takes; 0: the server ranks none."""
        return self.metadata.get("candidates", 0)

    def rank(self, observation: dict[str, Any], candidates: np.ndarray) -> dict[str, Any]:
        """Has the server rank actions that somebody else proposes: see `LoadedPolicy.rank`.

        Args:
            observation: as `infer` takes it.
            candidates: [K, H, dims].

        Raises:
            Refused, EpisodeLost, UserError: as `infer`.

        """
        return self.infer({**observation, CANDIDATES: candidates})

    def label(self, observation: dict[str, Any], success: bool, task: str = "") -> str:
        """Ends a recorded episode; returns its name on the server.

        Args:
            observation: the one after the episode's last action.
            success: whether the episode succeeded.
            task: the task's name, if it has one.

        Raises:
            Refused, EpisodeLost, UserError: as `infer`.

        """
        return self.infer(observation | {"label": {"success": success, "task": task}})["recorded"]

    def disconnect(self) -> None:
        """Closes the connection, within a second; the client cannot be used any more."""
        if self._thread is None:
            return
        if self._connection is not None:
            with contextlib.suppress(OSError, WebSocketException):
                self._wait(self._connection.close(), min(self._timeout_s, _LEAST_S))
        self._drop()
        self._thread.end()
        self._thread = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.disconnect()


class _Thread:
    """An event loop in a daemon thread, which does not keep a program from ending."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        threading.Thread(target=asyncio.run, args=(self._run(),), name="policy client", daemon=True).start()
        self._ready.wait()

    async def _run(self) -> None:
        self.loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._ended.wait()

    def end(self) -> None:
        """Ends the loop and its thread."""
        self.loop.call_soon_threadsafe(self._ended.set)


class Remote:
    """A served policy as `evaluation.rollouts` takes one: one session for each episode, over one connection.

    Args:
        client: of a server of this project.
        keys: what that server calls cameras, state and instruction.
    """

    def __init__(self, client: Client, keys: Keys):
        self._client, self._keys = client, keys

    @property
    def metadata(self) -> dict[str, Any]:
        """What the server says of its policy."""
        return self._client.metadata

    def act(self, requests: Sequence[Request]) -> list[Decision]:
        """Sends the requests one after the other and returns their decisions.

        Raises:
            Refused: if one is refused; those before it have acted.

        """
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Decision:
        options: dict[str, Any] = {"reset": request.reset, "return_scores": True}
        if request.seed is not None:
            options["seed"] = request.seed
        seen = self._keys.observation(request)
        if (self._client.metadata.get("limits") or {}).get("stale_ms") is not None:
            options["age_ms"] = 0.0  # a simulator waits
        reply = self._client.infer(seen | options | _named(request.session))
        tokens, chosen, score, step = (reply[name] for name in ("tokens", "scores_of_dims", "score", "step"))
        # On the wire a bin without a score has the lowest float.
        scores = np.where(reply["scores"] > np.finfo(np.float32).min, reply["scores"], -np.inf)
        return Decision(reply["actions"], tokens, chosen, score, scores, step)

    def close(self, session: Hashable) -> None:
        """Ends a session."""
        self._client.infer({"close": True} | _named(session))


def _packed(observation: dict[str, Any]) -> bytes:
    try:
        return wire.pack(observation)
    except (TypeError, ValueError, OverflowError) as error:
        key = next((key for key, value in observation.items() if not _can_be_sent(value)), None)
        raise UserError(f"Key {key!r} of the observation: {error}") from error


def _can_be_sent(value: Any) -> bool:
    try:
        wire.pack({"": value})
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _read(reply: bytes | str, url: str) -> dict[str, Any]:
    try:
        if isinstance(reply, bytes):
            return wire.unpack(reply)
        error = json.loads(reply)
        refused = Refused(error["error"], error["message"], error["in_history"])
        if (fallback := error.get("fallback")) is not None:
            refused.fallback = np.asarray(fallback, np.float32)
    except (ValueError, TypeError, KeyError, Refused):
        lines = reply.strip().splitlines() if isinstance(reply, str) else [reply]
        last = lines[-1][-200:] if lines else ""  # openpi's server sends what it raised
        raise UserError(f"{url} answers {last!r}; expected a policy server's reply.") from None
    raise refused


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            good = url.startswith(SCHEME) and not parts.netloc and len(parts.path) > 1
        else:
            good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range
        good = False
    if not good:
        expected = "ws://HOST:PORT or wss://HOST:PORT, IPv6 as [::1], or unix:///PATH"
        raise UserError(f"{url!r} is no URL of a policy server; expected {expected}.")


def _trusting(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{ca} holds no certificates ({error}); expected a PEM file.") from error


def _named(session: Any) -> dict[str, Any]:
    return {} if session is None else {"session_id": session}
