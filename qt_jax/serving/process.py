"""The server's process: compiles a policy, and listens until a signal comes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

from qt_jax.errors import UserError
from qt_jax.policy import checksums
from qt_jax.policy.folder import Folder
from qt_jax.policy.observations import Keys
from qt_jax.serving.access import Access, cannot_listen, netloc
from qt_jax.serving.certificate import Certificate
from qt_jax.serving.loading import Loader
from qt_jax.serving.policies import Policies, Served, check_same
from qt_jax.serving.recording import Recorder
from qt_jax.serving.server import Limits, Server
from qt_jax.serving.unix import UnixSocket
from qt_jax.serving.watching import Watched
from qt_jax.specs import PolicySpec


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a server listens.

    port: 0 is a free one; tls: the certificate, None is without TLS; unix: in the place of the others.
    """

    host: str
    port: int
    tls: Certificate | None = None
    unix: UnixSocket | None = None


@dataclasses.dataclass(frozen=True)
class Artefacts:
    """What a server serves.

    paths: folders of one artefact, or of two; share: of the episodes that the second one gets; reload:
    whether a folder that changes, or a link to another one, is loaded while the server serves; shadow:
    folder of an artefact that is compared and never sent, "" is none.
    """

    paths: Sequence[str]
    share: float = 0.5
    reload: bool = False
    shadow: str = ""


def serve(
    artefacts: Artefacts,
    address: Address,
    *,
    keys: str,
    capacity: int,
    budget_s: float,
    access: Access,
    limits: Limits,
    recorder: Recorder | None = None,
    watched: Sequence[Watched] = (),
) -> PolicySpec:
    """Serves artefacts until SIGTERM, Ctrl-C or SIGHUP comes, and says on stdout what it does.

    Args:
        artefacts: what is served.
        address: to listen on.
        keys: a JSON file with the robot's own names (`Keys.read`), or "".
        capacity: how many episodes there may be at once.
        budget_s: how long a request may wait for others to share its batch.
        access: who may connect.
        limits: of connections.
        recorder: writes down the episodes that are labelled.
        watched: what is read again when it changes.

    Returns:
        The policy's spec.

    Raises:
        UserError: if the artefact or the file of keys cannot be read, or the address not be listened on.

    """
    loader, paths, shadow = Loader(capacity, say), artefacts.paths, artefacts.shadow
    opened = {path: Folder.open(path) for path in (*paths, *filter(None, [shadow]))}
    for path, other in opened.items():  # before minutes of compilation
        check_same(opened[paths[0]].spec, other.spec, path)
    if len({checksums.fingerprint(opened[path].path) for path in paths}) < len(paths):
        raise UserError(f"--artefact={' --artefact='.join(paths)} is one policy; give another one.")

    def names(spec: PolicySpec) -> Keys:
        observation = spec.interface.observation
        return Keys.read(keys, observation) if keys else Keys.default(observation)

    def check(spec: PolicySpec) -> None:
        names(spec)
        if recorder is not None:
            recorder.spool.check(spec)

    def replace(place: int, path: str) -> None:
        server.replace(place, load(path))

    reloaded = [
        Watched("artefact", [path], functools.partial(replace, place, path))
        for place, path in enumerate(paths if artefacts.reload else ())
    ]  # here, since what changes while the first one is compiled counts too
    first = loader.load(paths[0], check)
    spec = first.spec

    def load(path: str) -> Served:
        return loader.load(path, lambda found: check_same(spec, found, path))

    server = Server(
        Policies([first, *map(load, paths[1:])], artefacts.share, names(spec)),
        access=access,
        limits=limits,
        budget_s=budget_s,
        recorder=recorder,
        shadow=load(shadow) if shadow else None,
    )
    del first  # a policy that is replaced leaves the memory with its last episode
    asyncio.run(listen(server, address, [*watched, *reloaded]))
    signal.signal(signal.SIGHUP, lambda *_: _drop_closed_streams())  # the terminal may be closed right after
    return spec


async def listen(server: Server, address: Address, watched: Sequence[Watched] = ()) -> None:
    """Listens until SIGTERM, Ctrl-C, or SIGHUP (the terminal or the connection to it is gone) comes."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            asyncio.get_running_loop().add_signal_handler(number, ended.set)

    unix, tls = address.unix, address.tls
    with unix or contextlib.nullcontext():
        own = None if unix is None else unix.bind()
        async with server.listening(address.host, address.port, tls, own) as listening:
            if unix is not None:
                say(f"serving {unix.url}")
            else:
                place = netloc(address.host, listening.sockets[0].getsockname()[1])
                websocket, page = ("ws", "http") if tls is None else ("wss", "https")
                say(f"serving {websocket}://{place} (page: {page}://{place}/)")
            async with asyncio.TaskGroup() as watching:
                tasks = [watching.create_task(one.watch(server.reloaded)) for one in watched]
                await ended.wait()
                for task in tasks:
                    task.cancel()
            say("shutting down: answering what is under way")


def say(line: str) -> None:
    """Prints a line, to nowhere if the terminal or pipe is closed: that must not end the server."""
    _drop_closed_streams()
    print(line, flush=True)


def _drop_closed_streams() -> None:
    """Redirects stdout and stderr to /dev/null where their terminal or pipe is closed."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        if poll.poll(0):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def check_port(host: str, port: int) -> None:
    """Raises a UserError if the port is taken, before minutes of compilation."""
    try:
        places = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in places:
            socket.create_server(address, family=family).close()
    except OSError as error:
        raise cannot_listen(host, port, error) from error
