"""A thin client of the policy server: numpy, msgpack and websockets. Robots that have `openpi-client` need none of it."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Hashable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from qt_jax.errors import UserError
from qt_jax.serving import wire
from qt_jax.serving.sessions import Decision, Refused, Request


class EpisodeLost(UserError):
    """The connection broke in mid-episode. It is open again, and the episode is gone: put the robot where one may begin, and reset."""


class Client:
    """One connection. Every request waits for its reply; not thread-safe.

    Args:
        url: ws://HOST:PORT or wss://HOST:PORT.
        timeout_s: for the connection, and for each reply.
        reconnect_s: for how long a lost connection is tried again.
        ca: PEM file of the certificates to trust, of a wss:// server that signed its own; default: the system's.

    Raises:
        UserError: if there is no server, it refuses the key, or its certificate is not trusted.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = 30.0, reconnect_s: float = 10.0, ca: str | None = None):
        _check_url(url)
        if api_key is not None and not (api_key := api_key.strip()).isprintable():
            raise UserError("The API key holds what no header may; expected printable ASCII on one line.")
        self._url, self._key, self._timeout_s, self._reconnect_s = url, api_key, timeout_s, reconnect_s
        self._tls = _trusting(ca) if url.startswith("wss:") else None
        self._connection: ClientConnection | None = None
        self._connect()

    def _connect(self) -> None:
        headers = {"Authorization": f"Api-Key {self._key}"} if self._key else None
        end = time.monotonic() + self._reconnect_s
        while True:
            try:
                self._connection = connect(
                    self._url, ssl=self._tls, additional_headers=headers, compression=None, max_size=None, open_timeout=self._timeout_s
                )
                self.metadata = wire.unpack(self._connection.recv(timeout=self._timeout_s))
                return
            except InvalidStatus as error:
                body = error.response.body.decode(errors="replace").strip()
                raise UserError(f"{self._url} refuses the connection ({error.response.status_code}: {body}).") from None
            except ssl.SSLCertVerificationError as error:
                raise UserError(
                    f"{self._url} has a certificate that is not trusted ({error.verify_message}); give the PEM file of one that is."
                ) from None
            except (OSError, WebSocketException, TimeoutError, ValueError) as error:
                if time.monotonic() > end:
                    raise UserError(
                        f"{self._url} does not answer ({type(error).__name__}: {error}); start it, or correct the URL (wss:// is with TLS)."
                    ) from None
                time.sleep(0.2)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """One request as the server's metadata describes it -> its reply.

        Raises:
            Refused: what the server refuses, with its code; the connection stays usable.
            EpisodeLost: if the connection broke; it is open again.
            UserError: if it cannot be opened again, or no reply came in time.
        """
        try:
            self._connection.send(wire.pack(observation))
            reply = self._connection.recv(timeout=self._timeout_s)
        except TimeoutError:
            self._connection.close()
            self._connect()  # a late reply must not be taken for the next one's
            raise EpisodeLost(f"{self._url} did not answer within {self._timeout_s:g} s; the episode is lost, begin a new one.") from None
        except (OSError, ConnectionClosed) as error:
            self._connect()
            raise EpisodeLost(f"The connection to {self._url} broke ({error}); the episode is lost, begin a new one.") from None
        if isinstance(reply, str):
            told = json.loads(reply)
            raise Refused(told["error"], told["message"], told["in_history"])
        return wire.unpack(reply)

    def values(self, instructions: Sequence[str], session: str | int | None = None) -> np.ndarray:
        """Value of each instruction in the session's last observation, float32 [K]."""
        return self.infer({"values": list(instructions)} | _named(session))["values"]

    def label(self, observation: dict[str, Any], success: bool, task: str = "") -> str:
        """Ends a recorded episode with the observation after its last action; returns its name on the server."""
        return self.infer(observation | {"label": {"success": success, "task": task}})["recorded"]

    def disconnect(self) -> None:
        self._connection.close()


class Remote:
    """A served policy where `evaluation.rollouts` wants one: a session an episode, all over one connection.

    Expects the server's default keys.
    """

    def __init__(self, client: Client):
        self._client = client

    @property
    def metadata(self) -> dict[str, Any]:
        return self._client.metadata

    def act(self, requests: Sequence[Request]) -> list[Decision | Refused]:
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Decision | Refused:
        images = {f"observation/{name}": image for name, image in request.images.items()}
        state = {"observation/state": request.state} if request.state.size else {}
        told = {"prompt": request.instruction, "reset": request.reset, "return_scores": True}
        try:
            reply = self._client.infer(images | state | told | _named(request.session))
        except Refused as refused:
            return refused
        told = (reply[name] for name in ("tokens", "scores_of_dims", "score", "scores", "step"))
        return Decision(reply["actions"][0], *told)

    def close(self, session: Hashable) -> None:
        self._client.infer({"close": True} | _named(session))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:  # a port out of range
        good = False
    if not good:
        raise UserError(f"{url!r} is no URL of a policy server; expected ws://HOST:PORT or wss://HOST:PORT.")


def _trusting(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{ca} holds no certificates ({error}); expected a PEM file.") from error


def _named(session: Any) -> dict[str, Any]:
    return {} if session is None else {"session_id": session}
