"""`serve`: a policy artefact over the websocket protocol of openpi-client, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING

from absl import flags

from qt_jax.errors import EXIT_USER_ERROR, UserError

if TYPE_CHECKING:
    from qt_jax.serving.access import Access
    from qt_jax.serving.certificate import Certificate
    from qt_jax.serving.unix import UnixSocket
    from qt_jax.serving.watching import Watched

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's own flags."""
    flags.DEFINE_multi_string(
        "artefact", [], "Folder that `export` wrote. Given twice, the two share the episodes."
    )
    flags.DEFINE_float(
        "share", 0.5, "Share of the episodes that the second artefact gets.", lower_bound=0, upper_bound=1
    )
    flags.DEFINE_string(
        "shadow",
        "",
        "Artefact that sees what the served one sees; its actions are compared and recorded, and never sent.",
    )
    flags.DEFINE_bool(
        "reload",
        False,
        "Load an artefact that changes, such as a link that points to another folder, while the server "
        "serves: it gets the episodes that begin then.",
    )
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "IPv4 or IPv6 address to listen on. Others than loopback need a key and TLS, or --insecure.",
    )
    flags.DEFINE_integer(
        "port", 8000, "Port to listen on; 0: a free one, which is printed.", lower_bound=0, upper_bound=65535
    )
    flags.DEFINE_string(
        "socket",
        "",
        "Unix socket to listen on in the place of host and port, for robots on this machine: a path.",
    )
    flags.DEFINE_string(
        "socket_mode",
        "600",
        "Its permissions, octal: 600 for its owner, 660 for its group too.",
    )
    flags.DEFINE_integer(
        "max_sessions", 8, "How many sessions, which are episodes, there may be at once.", lower_bound=1
    )
    flags.DEFINE_float(
        "batch_budget_ms",
        2.0,
        "How long a request may wait for other robots' to share its batch.",
        lower_bound=0,
    )
    deadline = "Deadline of requests that name none; 0: none."
    flags.DEFINE_float("deadline_ms", 0.0, deadline, lower_bound=0)
    flags.DEFINE_float(
        "idle_timeout_s", 600.0, "A connection without a message for so long is closed.", lower_bound=1
    )
    flags.DEFINE_integer("connections", 256, "How many there may be at a time.", lower_bound=1)
    flags.DEFINE_string("keys", "", "JSON file that says what the robot calls its cameras, state and prompt.")
    flags.DEFINE_string(
        "api_key_file",
        "",
        "File with API keys, one a line, any of which will do; read again when it changes. Else the "
        "environment's QT_JAX_API_KEY, if it is set.",
    )
    flags.DEFINE_string("tls_cert", "", "PEM file of the certificate chain; read again when it changes.")
    flags.DEFINE_string("tls_key", "", "PEM file of its private key.")
    flags.DEFINE_bool("insecure", False, "Listen beyond loopback without key or TLS.")
    flags.DEFINE_list(
        "allow_host",
        [],
        "Names in the Host header that are this server's, beside localhost, its own and IP addresses.",
    )
    flags.DEFINE_list("allow_origin", [], "Origins of web pages elsewhere that may connect.")
    flags.DEFINE_string(
        "record",
        "",
        "Write labelled episodes as an RLDS dataset to this path when the server ends; until then they are "
        "in PATH.episodes, which one server may have at a time.",
    )


def main() -> None:
    """Serves, and with --record writes the labelled episodes as a dataset at the end."""
    try:
        _serve()
    except UserError as error:
        _end_at_once(EXIT_USER_ERROR, f"qt_jax serve: {error}")
        raise
    _end_at_once(0)


def _end_at_once(status: int, line: str = "") -> None:
    """Ends the process here if a policy is being compiled, at which Python's own end would crash."""
    from qt_jax.serving import telemetry, watching

    if watching.under_way():
        print(line, end="\n" if line else "", file=sys.stderr, flush=True)
        sys.stdout.flush()
        telemetry.finish()
        os._exit(status)


def _serve() -> None:
    from qt_jax.serving import access, process
    from qt_jax.serving.certificate import Certificate
    from qt_jax.serving.server import Limits

    if not FLAGS.artefact:
        raise UserError("--artefact is missing; give the folder that `python -m qt_jax export` wrote.")
    if len(FLAGS.artefact) > 2 or (len(FLAGS.artefact) < 2 and FLAGS["share"].present):
        raise UserError(
            f"--artefact is given {len(FLAGS.artefact)} times; give it once, or twice with --share."
        )
    host = FLAGS.host.removeprefix("[").removesuffix("]")  # an IPv6 address as URLs have it
    keys, tls = access.read_keys(FLAGS.api_key_file), Certificate.read(FLAGS.tls_cert, FLAGS.tls_key)
    guard = access.Access(keys, access.hosts(FLAGS.allow_host), access.origins(FLAGS.allow_origin))
    unix = _unix_socket(tls is not None)
    if unix is not None:
        unix.check()
    else:
        access.check_bind(host, bool(keys), tls is not None, FLAGS.insecure)
        process.check_port(host, FLAGS.port)

    serve = functools.partial(
        process.serve,
        process.Artefacts(FLAGS.artefact, FLAGS.share, FLAGS.reload, FLAGS.shadow),
        process.Address(host, FLAGS.port, tls, unix),
        keys=FLAGS.keys,
        capacity=FLAGS.max_sessions,
        budget_s=FLAGS.batch_budget_ms / 1000,
        access=guard,
        limits=Limits(
            connections=FLAGS.connections, idle_timeout_s=FLAGS.idle_timeout_s, deadline_ms=FLAGS.deadline_ms
        ),
        watched=_watched(guard, tls),
    )
    if not FLAGS.record:
        serve()
        return
    from qt_jax.cli import record
    from qt_jax.serving.recording import Recorder

    with record.claim(FLAGS.record) as spool:
        recorder = Recorder(spool)
        spec = serve(recorder=recorder)
        record.write(spool, recorder, FLAGS.record, spec, f"Served by {' and '.join(FLAGS.artefact)}")


def _unix_socket(tls: bool) -> UnixSocket | None:
    """Returns the Unix socket of the flags, if any. Raises a UserError for flags that it cannot have."""
    from qt_jax.serving.unix import UnixSocket

    if not FLAGS.socket:
        if FLAGS["socket_mode"].present:
            raise UserError(f"--socket_mode={FLAGS.socket_mode} is of a Unix socket; give --socket=PATH too.")
        return None
    if tls or FLAGS["host"].present or FLAGS["port"].present:
        raise UserError(f"--socket={FLAGS.socket} has no host, port or TLS; leave these flags out.")
    try:
        mode = int(FLAGS.socket_mode, 8)
    except ValueError:
        mode = -1
    if not 0o600 <= mode <= 0o777:
        raise UserError(f"--socket_mode is {FLAGS.socket_mode}; expected permissions from 600 to 777, octal.")
    return UnixSocket(FLAGS.socket, mode)


def _watched(guard: Access, tls: Certificate | None) -> list[Watched]:
    """Returns the files of the flags that are read again when they change."""
    from qt_jax.serving import access
    from qt_jax.serving.watching import Watched

    key_file, cert, key = FLAGS.api_key_file, FLAGS.tls_cert, FLAGS.tls_key

    def read_keys() -> None:
        guard.keys = access.read_keys(key_file)

    found = [Watched("api_key", [key_file], read_keys)] if key_file else []
    if tls is not None:
        found.append(Watched("tls", [cert, key], tls.renew))
    return found
