"""Checks who may use the server: the Host and Origin headers, and the API key if there is one."""

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


@dataclasses.dataclass
class Access:
    """What a request must show before it is served.

    Attributes:
        keys: API keys, of which `Authorization` must hold one; (): no key is needed. They may be replaced
            while the server serves: connections that are open stay, new ones need a new key.
        hosts: names that may stand in `Host`, beside this machine's own, localhost and IP addresses. A web
            page that points a name of its own at this machine is refused.
        origins: origins of web pages elsewhere that may connect.

    """

    keys: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Returns (HTTP status, reason) if the request may not be served, else None."""
        host = headers.get("Host", "")
        if not self._host_allowed(host):
            return 403, f"Host {host[:100]!r} is not this server's; serve with --allow_host to allow it."
        origin = headers.get("Origin")
        if origin is not None and not self._origin_allowed(origin.lower(), host.lower()):
            remedy = "serve with --allow_origin to allow it"
            return 403, f"Origin {origin[:100]!r} is not this server's; {remedy}."
        if self.keys:
            given = _given_key(headers.get("Authorization", ""))
            # A list: the time that it takes says nothing of which key is nearly right.
            if not any([hmac.compare_digest(given, key.encode()) for key in self.keys]):
                return 401, "The API key is missing or wrong; send the header 'Authorization: Api-Key KEY'."
        return None

    def _host_allowed(self, host: str) -> bool:
        name = _host_name(host)
        return name in {"localhost", socket.gethostname().lower(), *self.hosts} or _is_address(name)

    def _origin_allowed(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin.partition("://")[2] == host


def _host_name(host: str) -> str:
    """Returns the name in a Host header: lower case, no port, no brackets of IPv6; empty if there is none."""
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
    """Reads the names of `--allow_host` into the form in which `Access` compares them.

    Raises:
        UserError: for a value that cannot stand in a Host header.

    """
    for host in given:
        if "/" in host or not (_host_name(host) or _is_address(host)):
            raise UserError(f"--allow_host={host} is no host name; expected one such as robot.lab.")
    return frozenset(map(_host_name, given)) - {""}


def origins(given: Sequence[str]) -> frozenset[str]:
    """Reads the origins of `--allow_origin` into the form in which `Access` compares them.

    Raises:
        UserError: for a value that cannot stand in an Origin header.

    """
    for origin in given:
        if not _host_name(origin.partition("://")[2]):
            raise UserError(f"--allow_origin={origin} is no origin; expected one such as http://[::1]:3000.")
    return frozenset(origin.lower().rstrip("/") for origin in given)


def netloc(host: str, port: int) -> str:
    """Returns HOST:PORT as URLs have it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _given_key(authorization: str) -> bytes:
    """Returns the key of an Authorization header; empty if there is none.

    `Api-Key KEY` and `Bearer KEY` hold it as it is; `Basic`, for which a browser asks a person, as password.
    """
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() in ("api-key", "bearer"):
        return value.strip().encode(errors="replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # also raised for text that is not ASCII
            return b""
    return b""


def read_keys(path: str) -> tuple[str, ...]:
    """Reads the API keys, one a line, from a file, or from the environment where no path is given.

    Returns:
        The keys; () where the environment has none.

    Raises:
        UserError: if the file cannot be read, or a key is short or not ASCII.

    """
    if path:
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            expected = "expected a text file with a key a line"
            raise UserError(f"--api_key_file={path} cannot be read ({error}); {expected}.") from error
    else:
        text = os.environ.get(KEY_VARIABLE, "")
        if not text.strip():
            return ()

    keys = tuple(line.strip() for line in text.strip().splitlines() if line.strip())
    if not keys or not all(len(key) >= 16 and key.isascii() for key in keys):
        remedy = "make one with `openssl rand -hex 32`"
        where = f"--api_key_file={path}" if path else KEY_VARIABLE
        raise UserError(f"{where}: an API key has fewer than 16 ASCII characters; {remedy}.")
    return keys


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    """Returns the error for an address that the server cannot listen on, naming the flag to change."""
    if error.errno and not isinstance(error, socket.gaierror):
        reason = os.strerror(error.errno)  # asyncio's own text repeats the address
    else:
        reason = error.strerror or str(error)
    flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
    return UserError(f"{netloc(host, port)} cannot be listened on ({reason}); choose another {flag}.")


def check_bind(host: str, key: bool, tls: bool, insecure: bool) -> None:
    """Checks that other machines can reach this server only with a key and over TLS.

    Raises:
        UserError: if `host` is not loopback, and neither key and TLS nor `insecure` are given.

    """
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not insecure and not (key and tls):
        raise UserError(
            f"--host={host} can be reached from other machines: give an API key ({KEY_VARIABLE} or "
            "--api_key_file) and TLS (--tls_cert and --tls_key), or --insecure if something else guards it."
        )
