"""Who may speak to the server: Host and Origin of browsers, an API key of everybody where there is one."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import errno
import hmac
import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from qt_jax.errors import UserError

KEY_VARIABLE = "QT_JAX_API_KEY"


@dataclasses.dataclass(frozen=True)
class Access:
    """key: what `Authorization` must hold, if anything. hosts: names in `Host` that are ours, beside loopback's and IP addresses: a web
    page that points a name of its own at this machine is not let in. origins: of pages elsewhere that may connect."""

    key: str | None = None
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """(HTTP status, reason) if the request may not be served."""
        host = headers.get("Host", "")
        if not self._known(host):
            return 403, f"Host {host[:100]!r} is not this server's; serve with --allow_host to allow it."
        origin = headers.get("Origin")
        if origin is not None and origin not in self.origins and origin.lower().partition("://")[2] != host.lower():
            return 403, f"Origin {origin[:100]!r} is not this server's; serve with --allow_origin to allow it."
        if self.key is not None and not hmac.compare_digest(_presented(headers.get("Authorization", "")), self.key.encode()):
            return 401, "The API key is missing or wrong; send the header 'Authorization: Api-Key KEY'."
        return None

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in {"localhost", socket.gethostname().lower(), *self.hosts}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _presented(authorization: str) -> bytes:
    """The key of `Api-Key KEY` or `Bearer KEY`, or the password of `Basic` (what a browser asks a person for)."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() in ("api-key", "bearer"):
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def read_key(path: str) -> str | None:
    """From the file, else from the environment, else none.

    Raises:
        UserError: if the file cannot be read or the key is short.
    """
    if path:
        try:
            key = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api_key_file={path} cannot be read ({error}); expected a text file with the key.") from error
    else:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            return None
    if len(key) < 16 or not key.isascii():
        raise UserError("The API key has fewer than 16 ASCII characters; make one with `openssl rand -hex 32`.")
    return key


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    reason = os.strerror(error.errno) if error.errno else error.strerror
    flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
    return UserError(f"{host}:{port} cannot be listened on ({reason}); choose another {flag}.")


def check_bind(host: str, key: str | None, tls: bool, insecure: bool) -> None:
    """Raises a UserError if others than this machine could reach an unguarded server."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not insecure and not (key and tls):
        raise UserError(
            f"--host={host} can be reached from other machines: give an API key ({KEY_VARIABLE} or --api_key_file) and TLS (--tls_cert and "
            "--tls_key), or --insecure if something else guards it."
        )
