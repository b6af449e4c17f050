"""Answers plain HTTP requests: health, metrics, the page for people and the data that it shows."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from pathlib import Path

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers, MultipleValuesError
from websockets.http11 import Request, Response

from qt_jax.serving.access import Access
from qt_jax.serving.dashboard import Dashboard
from qt_jax.serving.policies import Policies
from qt_jax.serving.shadow import Shadow
from qt_jax.serving.telemetry import Metrics

FOLDER = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/charts.js": ("charts.js", "text/javascript"),
}
CONTENT_SECURITY_POLICY = "; ".join(
    [*(f"{kind}-src 'self'" for kind in ("script", "style", "connect")),
     *(f"{kind} 'none'" for kind in ("default-src", "base-uri", "form-action", "frame-ancestors"))]
)  # fmt: skip
_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
}
AT_ONCE = 32
"""Answers that may be under way at once. Slow readers could be many, and each answer may hold an image."""


class Pages:
    """The HTTP side of one server.

    Args:
        access: decides which requests are served.
        metrics: what /metrics shows.
        dashboard: what /state and /frames show.
        policies: what acts.
        shadow: what is compared with it, if there is something.

    """

    def __init__(
        self,
        access: Access,
        metrics: Metrics,
        dashboard: Dashboard,
        policies: Policies,
        shadow: Shadow | None,
    ):
        self._access, self._metrics, self._dashboard = access, metrics, dashboard
        self._policies, self._shadow = policies, shadow
        self._files = {path: (kind, (FOLDER / name).read_bytes()) for path, (name, kind) in FILES.items()}
        self._under_way: set[asyncio.Task] = set()

    def answer(
        self, connection: ServerConnection, request: Request, *, draining: bool, full: bool
    ) -> Response | None:
        """Returns the answer to a request; None lets a websocket's handshake go on.

        Args:
            connection: whom the answer is for.
            request: the HTTP request.
            draining: the server is shutting down, and takes no new websocket.
            full: it has as many as it may have, and takes no new one either.

        """
        try:
            response = self._answer(request, draining, full)
        except MultipleValuesError as error:
            response = _text(400, f"Header {error} is there more than once.")
        if response is not None and request.method == "HEAD":
            response.body = b""  # Content-Length stays that of the page
        if response is not None and response.body:
            task = asyncio.create_task(connection.wait_closed())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return response

    def _answer(self, request: Request, draining: bool, full: bool) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return _text(405, f"Method {request.method[:20]!r} is not served; use GET.")
        refusal = self._access.refusal(request.headers)
        path = request.path.partition("?")[0]
        if path == "/healthz" and (refusal is None or refusal[0] == 401):
            return _text(503, "shutting down") if draining else self._healthy(known=refusal is None)
        if refusal is not None:
            return self._refused(*refusal)

        if request.headers.get("Upgrade", "").lower() == "websocket":
            if draining or full:
                return self._refused(503, "The server is full or shutting down; try again later.")
            return None

        if len(self._under_way) >= AT_ONCE:
            return self._refused(503, f"{AT_ONCE} answers are under way already; try again later.")
        if path == "/metrics":
            self._metrics.sessions.set(len(self._policies))
            return _response(200, "text/plain; version=0.0.4", self._metrics.text())
        if path == "/state" or path.startswith("/state/"):
            wanted = path.removeprefix("/state").removeprefix("/")
            shadow = None if self._shadow is None else self._shadow.report()
            state = self._dashboard.state(self._policies.describe, wanted)
            state |= {"policies": self._policies.report(), "shadow": shadow}
            return _response(200, "application/json", json.dumps(state).encode())
        if path.startswith("/frames/"):
            frame = self._dashboard.frame(path.removeprefix("/frames/"))
            if frame is None:
                return _text(404, "No such frame.")
            return _response(200, "application/octet-stream", frame)
        if path in self._files:
            kind, content = self._files[path]
            return _response(200, f"{kind}; charset=utf-8", content)
        return _text(404, "Nothing here; the page is at /.")

    def _healthy(self, known: bool) -> Response:
        """Says OK, and to who may know it which policies begin episodes."""
        serving = [one for one in self._policies.report() if one["share"]] if known else []
        lines = [f"{one['fingerprint']} {one['artefact']} {one['share']:g}" for one in serving]
        return _text(200, "\n".join(["OK", *lines]))

    def _refused(self, status: int, reason: str) -> Response:
        self._metrics.refused.labels(status).inc()
        return _text(status, reason)


def _text(status: int, line: str) -> Response:
    return _response(status, "text/plain", line.encode() + b"\n")


def _response(status: int, kind: str, body: bytes) -> Response:
    headers = Headers(_HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))})
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="qt_jax: any name, the API key as password"'
    if status == 405:
        headers["Allow"] = "GET, HEAD"
    return Response(status, HTTPStatus(status).phrase, headers, body)
