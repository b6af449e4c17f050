"""`serve`: a policy artefact over the websocket protocol of openpi-client, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from qt_jax.errors import UserError
from qt_jax.serving.access import Access, cannot_listen, netloc

if TYPE_CHECKING:
    from qt_jax.serving.recording import Recorder
    from qt_jax.specs import PolicySpec

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_string("artefact", "", "Folder that `export` wrote.")
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "IPv4 or IPv6 address to listen on. Others than loopback need a key and TLS, or --insecure.",
    )
    flags.DEFINE_integer(
        "port", 8000, "Port to listen on; 0: a free one, which is printed.", lower_bound=0, upper_bound=65535
    )
    flags.DEFINE_integer("max_sessions", 8, "Sessions, which are episodes, at once.", lower_bound=1)
    flags.DEFINE_float(
        "batch_budget_ms",
        2.0,
        "How long a request may wait for other robots' to share its batch.",
        lower_bound=0,
    )
    flags.DEFINE_float("deadline_ms", 0.0, "Of requests that name none; 0: none.", lower_bound=0)
    flags.DEFINE_float(
        "idle_timeout_s", 600.0, "A connection without a message for so long is closed.", lower_bound=1
    )
    flags.DEFINE_integer("connections", 256, "At a time.", lower_bound=1)
    flags.DEFINE_string("keys", "", "JSON file that says what the robot calls its cameras, state and prompt.")
    flags.DEFINE_string(
        "api_key_file", "", "File with the API key; else the environment's QT_JAX_API_KEY, if it is set."
    )
    flags.DEFINE_string("tls_cert", "", "PEM file of the certificate chain.")
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
    try:
        import msgpack  # noqa: F401
        import prometheus_client  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UserError(f"Serving needs the package {error.name}: pip install 'qt_jax[serve]'.") from error
    from qt_jax.serving import access

    if not FLAGS.artefact:
        raise UserError("--artefact is missing; give the folder that `python -m qt_jax export` wrote.")
    key, tls = access.read_key(FLAGS.api_key_file), _tls()
    access.check_bind(_host(), key, tls is not None, FLAGS.insecure)
    _check_free(_host(), FLAGS.port)
    guard = access.Access(key, access.hosts(FLAGS.allow_host), access.origins(FLAGS.allow_origin))
    if not FLAGS.record:
        _run(guard, tls, None)
        return
    from qt_jax.cli import record
    from qt_jax.serving.recording import Recorder

    with record.claim(FLAGS.record) as spool:
        recorder = Recorder(spool)
        spec = _run(guard, tls, recorder)
        record.write(spool, recorder, FLAGS.record, spec, f"Served by {FLAGS.artefact}")


def _run(guard: Access, tls: ssl.SSLContext | None, recorder: Recorder | None) -> PolicySpec:
    """Serves until a signal comes; gives the policy's spec."""
    from qt_jax import text
    from qt_jax.policy import artefact
    from qt_jax.policy.observations import Keys
    from qt_jax.policy.sessions import Sessions
    from qt_jax.serving.server import Limits, Server

    opened = artefact.load(FLAGS.artefact)
    if recorder is not None:
        recorder.spool.check(opened.spec)
    keys = (
        Keys.read(FLAGS.keys, opened.spec.interface.observation)
        if FLAGS.keys
        else Keys.default(opened.spec.interface.observation)
    )
    most = FLAGS.max_sessions
    policy = opened.policy(most + 1, opened.batches or [2**n for n in range(most.bit_length())])
    known = opened.embeddings()
    embed = text.embedder(known, opened.spec.text_encoder)
    _say(f"compiling for {len(policy.buckets)} batch sizes {list(policy.buckets)} ...")
    policy.warm_up()
    _warm_text(embed, known)
    server = Server(
        Sessions(policy, embed, reserved=1),
        about={
            "artefact": opened.path.name,
            "decoder": opened.about["decoder"],
            "training": opened.training(),
        },
        keys=keys,
        access=guard,
        limits=Limits(
            connections=FLAGS.connections, idle_timeout_s=FLAGS.idle_timeout_s, deadline_ms=FLAGS.deadline_ms
        ),
        budget_s=FLAGS.batch_budget_ms / 1000,
        recorder=recorder,
    )
    asyncio.run(_serve(server, _host(), FLAGS.port, tls))
    signal.signal(signal.SIGHUP, lambda *_: _leave_what_is_gone())  # its terminal may be closed right after
    return opened.spec


async def _serve(server: Any, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Until a signal comes: SIGTERM, Ctrl-C, or SIGHUP, when the terminal or the connection to it is gone."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with server.listening(host, port, tls) as listening:
        place = netloc(host, listening.sockets[0].getsockname()[1])
        scheme = ("ws", "http") if tls is None else ("wss", "https")
        _say(f"serving {scheme[0]}://{place} (page: {scheme[1]}://{place}/)")
        await ended.wait()
        _say("shutting down: answering what is under way")


def _say(line: str) -> None:
    _leave_what_is_gone()
    print(line, flush=True)


def _leave_what_is_gone() -> None:
    """Terminals and pipes that are closed: what is printed goes nowhere, instead of ending the server."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        if poll.poll(0):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def _host() -> str:
    """As sockets have it, also where it is given as a URL has it: [::1]."""
    return FLAGS.host.removeprefix("[").removesuffix("]")


def _check_free(host: str, port: int) -> None:
    """A taken port is told before the programs are compiled."""
    try:
        places = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in places:
            socket.create_server(address, family=family).close()
    except OSError as error:
        raise cannot_listen(host, port, error) from error


def _tls() -> ssl.SSLContext | None:
    if not FLAGS.tls_cert and not FLAGS.tls_key:
        return None
    if not FLAGS.tls_cert or not FLAGS.tls_key:
        raise UserError(
            f"--tls_cert={FLAGS.tls_cert} --tls_key={FLAGS.tls_key}: TLS needs both; give the other PEM file too."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(FLAGS.tls_cert, FLAGS.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"--tls_cert={FLAGS.tls_cert} --tls_key={FLAGS.tls_key} cannot be used ({error}); expected PEM files."
        ) from error
    return context


def _warm_text(embed: Any, known: dict[str, Any]) -> None:
    """Loads the encoder before the first robot waits for it.

    One that is not here serves the exported instructions alone.
    """
    try:
        embed("open the drawer")
    except UserError as error:
        _say(f"no new sentences: {error} Served are the {len(known)} exported instructions, and embeddings.")
