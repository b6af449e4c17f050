"""Several hosts: who takes part, a roll call that names who is missing, then JAX's own runtime."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from typing import Any

import jax
import ml_collections
from jax._src.clusters import ClusterEnv

from qt_jax.errors import UserError


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.coordinator = ""  # host:port of process 0; empty: found from SLURM, GKE, TPU metadata or OpenMPI, else one process
    config.num_processes = 0
    config.process_id = -1
    config.start_timeout_s = 300  # until every process is there
    config.heartbeat_timeout_s = 30  # until the others stop after one died
    return config


@dataclasses.dataclass(frozen=True)
class Cluster:
    """coordinator: "host:port" of process 0."""

    coordinator: str
    num_processes: int
    process_id: int


def find(settings: Any) -> Cluster | None:
    """The cluster that `config.distributed` or the environment describes; None for a single process.

    Raises:
        UserError: if the settings are incomplete.
    """
    if settings.coordinator:
        if not 0 <= settings.process_id < settings.num_processes or ":" not in settings.coordinator:
            raise UserError(
                f"config.distributed has coordinator={settings.coordinator!r}, num_processes={settings.num_processes}, "
                f"process_id={settings.process_id}; give host:port, the number of processes and this one's number from 0."
            )
        return Cluster(settings.coordinator, settings.num_processes, settings.process_id)
    present = [env for env in ClusterEnv._cluster_types if not env.opt_in_only_method and env.is_env_present()]
    if not present or present[0].get_process_count() == 1:
        return None
    env = present[0]
    address = env.get_coordinator_address(timeout_secs=settings.start_timeout_s, override_coordinator_port=None)
    return Cluster(address, env.get_process_count(), env.get_process_id())


def start(settings: Any) -> None:
    """Joins the cluster, if there is one. Call before anything touches a device.

    Raises:
        UserError: naming the processes that are not there within `start_timeout_s`.
    """
    cluster = find(settings)
    if cluster is None or cluster.num_processes == 1:
        return
    roll_call(cluster, settings.start_timeout_s)
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        initialization_timeout=settings.start_timeout_s,
        heartbeat_timeout_seconds=settings.heartbeat_timeout_s,
    )


def roll_call(cluster: Cluster, timeout_s: float) -> None:
    """Returns on every process once all are there (JAX's own start-up aborts the process without saying who is missing).

    Uses the port after the coordinator's.

    Raises:
        UserError: on every process that is there, naming those that are not.
    """
    host, port = cluster.coordinator.rsplit(":", 1)
    address, deadline = (host, int(port) + 1), time.monotonic() + timeout_s
    missing = _call(cluster, address, deadline) if cluster.process_id == 0 else _answer(cluster, address, deadline)
    if missing:
        raise UserError(
            f"Of {cluster.num_processes} processes {missing} did not reach {cluster.coordinator} within "
            f"config.distributed.start_timeout_s={timeout_s:g}; this is process {cluster.process_id} on {socket.gethostname()}. Look at "
            "their logs, the network between the hosts, and num_processes."
        )


def _call(cluster: Cluster, address: tuple[str, int], deadline: float) -> list[int]:
    absent, connections = set(range(1, cluster.num_processes)), []
    try:
        server = socket.create_server(address)
    except OSError as error:
        raise UserError(f"Process 0 cannot listen on {address[0]}:{address[1]} ({error}); set config.distributed.coordinator.") from error
    with server:
        while absent and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection, _ = server.accept()
                connection.settimeout(max(0.1, min(5.0, left)))
                absent.discard(int(connection.recv(16)))
                connections.append(connection)
            except (OSError, ValueError):  # nobody came in time, or something that is not one of us
                continue
        for connection in connections:
            with connection:
                connection.sendall(json.dumps(sorted(absent)).encode())
    return sorted(absent)


def _answer(cluster: Cluster, address: tuple[str, int], deadline: float) -> list[int]:
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=left) as connection:
                connection.sendall(str(cluster.process_id).encode())
                connection.settimeout(left + 5)  # the coordinator's own bound, and the way
                with connection.makefile() as answer:
                    return json.load(answer)
        except (OSError, ValueError):
            time.sleep(0.2)
    return [0]
