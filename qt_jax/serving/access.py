"""Who may speak to the server: Host and Origin of browsers, an API key of everybody where there is one."""

from __future__ import annotations

import base64
import dataclasses
import errno
import hmac
import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from qt_jax.errors import UserError

KEY_VARIABLE = "QT_JAX_API_KEY"


@dataclasses.dataclass(frozen=True)
class Access:
    """key: what `Authorization` must hold, if anything. hosts: names in `Host` that are ours, beside
    loopback's and IP addresses: a web page that points a name of its own at this machine is not let in.
    origins: of pages elsewhere that may connect.
    """

    key: str | None = None
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """(HTTP status, reason) if the request may not be served."""
        host = headers.get("Host", "")
        if not self._known(host):
            return 403, f"Host {host[:100]!r} is not this server's; serve with --allow_host to allow it."
        origin = headers.get("Origin")
        if origin is not None and not self._ours(origin.lower(), host.lower()):
            return (
                403,
                f"Origin {origin[:100]!r} is not this server's; serve with --allow_origin to allow it.",
            )
        if self.key is not None and not hmac.compare_digest(
            _presented(headers.get("Authorization", "")), self.key.encode()
        ):
            return 401, "The API key is missing or wrong; send the header 'Authorization: Api-Key KEY'."
        return None

    def _ours(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin.partition("://")[2] == host

    def _known(self, host: str) -> bool:
        name = _name(host)
        return name in {"localhost", socket.gethostname().lower(), *self.hosts} or _is_address(name)


def _name(host: str) -> str:
    """Of a Host header: in lower case, without the port or the brackets of IPv6; empty if it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def hosts(given: Sequence[str]) -> frozenset[str]:
    """Names of `--allow_host`, as they are compared.

    Raises:
        UserError: for what no Host header may be.

    """
    for host in given:
        if "/" in host or not (_name(host) or _is_address(host)):
            raise UserError(f"--allow_host={host} is no host name; expected one such as robot.lab.")
    return frozenset(map(_name, given)) - {""}


def origins(given: Sequence[str]) -> frozenset[str]:
    """Origins of `--allow_origin`, as they are compared.

    Raises:
        UserError: for what no Origin header may be.

    """
    for origin in given:
        if not _name(origin.partition("://")[2]):
            raise UserError(f"--allow_origin={origin} is no origin; expected one such as http://[::1]:3000.")
    return frozenset(origin.lower().rstrip("/") for origin in given)


def netloc(host: str, port: int) -> str:
    """HOST:PORT as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _presented(authorization: str) -> bytes:
    """The key of `Api-Key KEY` or `Bearer KEY`, or the password of `Basic` (what a browser asks a person
    for).
    """
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() in ("api-key", "bearer"):
        return value.strip().encode(errors="replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # also of what is not ASCII
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
            raise UserError(
                f"--api_key_file={path} cannot be read ({error}); expected a text file with the key."
            ) from error
    else:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            return None
    if len(key) < 16 or not key.isascii():
        raise UserError(
            "The API key has fewer than 16 ASCII characters; make one with `openssl rand -hex 32`."
        )
    return key


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    known = error.errno and not isinstance(error, socket.gaierror)  # asyncio's own text repeats the address
    reason = os.strerror(error.errno) if known else error.strerror
    flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
    return UserError(f"{netloc(host, port)} cannot be listened on ({reason}); choose another {flag}.")


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
