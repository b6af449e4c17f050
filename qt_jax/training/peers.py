"""Connections between the processes of a run: which is missing, which died, which hangs.

Every process keeps one connection to process 0 from the roll call to the end. Process 0 notices a death by
the end of the connection (at once) or by its silence, and sends it to all.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import re
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from orbax.checkpoint import multihost

from qt_jax.errors import EXIT_HUNG, EXIT_PEER_LOST, EXIT_USER_ERROR, Preempted, UserError

_BEAT_S = 1.0
_END_S = 300.0
_GRACE_S = 5.0
"""For this process to report its own error after another stopped: often it is the same."""


class Peers:
    """This process's connections to the others of its run. With no others it does nothing.

    A context manager: a process that leaves it by an exception sends the reason to the others, which then end
    with EXIT_PEER_LOST and one line. So they do when a process dies or is silent.

    Attributes:
        doing: what this process is at, which the others print if it is lost.

    Args:
        process_id: of this process.
        connections: by process; to process 0, or of process 0 to all others.
        silence_s: a process that was not heard for so long is lost.

    """

    def __init__(
        self, process_id: int = 0, connections: dict[int, Connection] | None = None, silence_s: float = 0.0
    ):
        self.doing = "starting"
        self._process_id, self._connections, self._silence_s = process_id, connections or {}, silence_s
        self._heard = {number: (time.monotonic(), self.doing) for number in self._connections}
        self._gone: list[Connection] = []
        self._sending, self._closing = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._listen, name="peers", daemon=True)
        self._thread.start()

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, Preempted):
            self._leave_together()
            return
        if isinstance(error, JaxRuntimeError):
            self._thread.join(_GRACE_S)  # a collective that failed because another died: report that death
        self._closing.set()
        self._thread.join()
        if self._heard:
            why = str(error) if isinstance(error, UserError) else repr(error)
            self._send_all({"end": " ".join(why.split())[:1000]})
            # Before JAX's own end, which would wait for the others and then abort.
            atexit.register(_leave, EXIT_USER_ERROR if isinstance(error, UserError) else 1, self._process_id)

    def _leave_together(self) -> None:
        """Ends when all are done: process 0 waits for the others' end, then releases them."""
        self.doing = "waiting for the others' end"
        if self._process_id != 0:
            self._send_all({"end": ""})
        self._thread.join(_END_S)  # it ends when all others have sent their end
        if self._heard:
            late = ", ".join(map(str, sorted(self._heard)))
            self.stop(f"process {late} did not end within {_END_S:g} s after this one")
        self._send_all({"end": ""}, self._gone)

    def stop(self, reason: str, status: int = EXIT_PEER_LOST, grace_s: float = 0.0) -> None:
        """Ends this process and the others, unless it leaves by itself within the grace.

        Args:
            reason: the line that every process prints.
            status: the exit status.
            grace_s: how long to wait for this process's own end.

        """
        if self._process_id == 0 or status != EXIT_PEER_LOST:
            message = {"stop": reason, "status": status, "grace_s": grace_s}
            self._send_all(message, [*self._connections.values(), *self._gone])
        if self._closing.wait(grace_s):
            return

        where = ""
        if self._connections:
            where = f" This is process {self._process_id} on {socket.gethostname()}, at: {self.doing}"
            for number, (at, doing) in list(self._heard.items()):
                where += f"; process {number} was at: {doing}, heard {time.monotonic() - at:.0f} s ago"
            where += "."
        sys.stdout.flush()
        print(f"qt_jax train: {reason}{where}", file=sys.stderr, flush=True)
        if status == EXIT_HUNG:
            faulthandler.dump_traceback(all_threads=True)
        os._exit(status)

    def _listen(self) -> None:
        beaten = passed = time.monotonic()
        while not self._closing.is_set() and self._connections:
            now = time.monotonic()
            if now - passed > _GRACE_S:  # this process itself stood still: it cannot judge the others
                self._heard = {number: (now, doing) for number, (_, doing) in self._heard.items()}
            passed = now
            if now - beaten >= _BEAT_S:
                beaten = now
                self._send_all({"doing": self.doing}, [*self._connections.values(), *self._gone])
            for connection in wait(list(self._connections.values()), timeout=_BEAT_S / 2):
                self._hear(next(number for number, other in self._connections.items() if other is connection))
            for number, (at, _) in self._heard.items():
                if time.monotonic() - at > self._silence_s:
                    timeout = f"config.distributed.heartbeat_timeout_s={self._silence_s:g} s"
                    self._lost(number, f"was not heard for {timeout}")

    def _hear(self, number: int) -> None:
        try:
            message = json.loads(self._connections[number].recv_bytes())
        except (OSError, EOFError):
            return self._lost(number, "died")
        if "doing" in message:
            self._heard[number] = (time.monotonic(), message["doing"])
        elif "stop" in message:
            self.stop(message["stop"], message["status"], message["grace_s"])
        elif message["end"]:
            self._lost(number, f"stopped ({message['end']})", _GRACE_S)
        else:
            self._gone.append(self._connections.pop(number))
            del self._heard[number]

    def _lost(self, number: int, what: str, grace_s: float = 0.0) -> None:
        remedy = (
            "so the others stop too; see its log, then start all again: they continue from the last complete "
            "checkpoint."
        )
        self.stop(f"process {number} {what}, {remedy}", grace_s=grace_s)

    def _send_all(self, message: dict[str, Any], connections: list[Connection] | None = None) -> None:
        with self._sending:
            for connection in list(self._connections.values()) if connections is None else connections:
                try:
                    connection.send_bytes(json.dumps(message).encode())
                except OSError:  # it is gone, which `_hear` notices
                    continue


def meet(name: str, timeout_s: float) -> None:
    """Waits until all processes have come here.

    It is no collective, since those give up after half a minute on a CPU.

    Raises:
        UserError: naming the processes that did not come in time.

    """
    everyone = set(range(jax.process_count()))
    try:
        multihost.sync_global_processes(name, timeout=int(timeout_s), processes=everyone)
    except JaxRuntimeError as error:
        check_barrier(error)
        raise


def check_barrier(error: BaseException) -> None:
    """Raises a UserError that names the missing processes, if a barrier of JAX or Orbax timed out."""
    found = re.search(
        r"Barrier timed out\. Id: ([^\n]+?)(?:::\d+)?\. .*task names:\n([\d\n]+)", str(error), re.DOTALL
    )
    if found:
        missing = ", ".join(found[2].split())
        raise UserError(
            f"Process {missing} did not come to the barrier {found[1]!r} in time; see its log, then start "
            "all again: they go on from the last complete checkpoint."
        ) from error


def _leave(status: int, process_id: int) -> None:
    if process_id == 0:  # JAX's service ends with it, and the others before they have printed why
        time.sleep(_GRACE_S + _BEAT_S)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def join(
    address: tuple[str, int], num_processes: int, process_id: int, timeout_s: float, silence_s: float
) -> Peers:
    """Holds the roll call: waits until all processes are there.

    JAX's own start-up would abort the process without a word about which is missing.

    Args:
        address: where process 0 listens.
        num_processes: how many there are.
        process_id: of this one.
        timeout_s: how long to wait.
        silence_s: a process that was not heard for so long is lost.

    Raises:
        UserError: on every process that is there, naming those that are not.

    """
    deadline = time.monotonic() + timeout_s
    if process_id == 0:
        missing, connections = _call(address, num_processes, deadline)
    else:
        missing, connections = _answer(address, process_id, deadline)
    if missing:
        raise UserError(
            f"Of {num_processes} processes {missing} did not reach {address[0]}:{address[1]} within "
            f"config.distributed.start_timeout_s={timeout_s:g}; this is process {process_id} on "
            f"{socket.gethostname()}. Look at their logs, the network between the hosts, and num_processes."
        )
    return Peers(process_id, connections, silence_s)


def _call(
    address: tuple[str, int], num_processes: int, deadline: float
) -> tuple[list[int], dict[int, Connection]]:
    """Accepts the other processes, and sends each which are missing; returns those and the connections."""
    connections: dict[int, Connection] = {}
    # On all interfaces, as JAX does: the host's name may be of another one.
    here = address[0] if address[0] in ("127.0.0.1", "localhost") else ""
    try:
        server = socket.create_server((here, address[1]))
    except OSError as error:
        raise UserError(
            f"Process 0 cannot listen on port {address[1]} ({error}); set config.distributed.coordinator."
        ) from error
    with server:
        while len(connections) < num_processes - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                accepted, _ = server.accept()
                accepted.settimeout(max(0.1, min(5.0, left)))
                number = int(accepted.recv(16))
                accepted.settimeout(None)
            except (OSError, ValueError):  # nobody came in time, or something that is not one of us
                continue
            if 0 < number < num_processes:
                connections[number] = Connection(accepted.detach())
    missing = sorted(set(range(1, num_processes)) - set(connections))
    for connection in connections.values():
        connection.send_bytes(json.dumps(missing).encode())
    return missing, connections


def _answer(
    address: tuple[str, int], process_id: int, deadline: float
) -> tuple[list[int], dict[int, Connection]]:
    """Connects to process 0; returns which processes are missing, and the connection."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=left) as opened:
                opened.sendall(str(process_id).encode())
                opened.settimeout(None)
                connection = Connection(opened.detach())
            if connection.poll(left + 5):  # process 0 waits as long, and its message takes a moment
                return json.loads(connection.recv_bytes()), {0: connection}
        except (OSError, EOFError, ValueError):
            time.sleep(0.2)
    return [0], {}
