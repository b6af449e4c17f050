"""Several hosts: who takes part, the roll call, then JAX's own runtime."""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Any

import jax
import ml_collections
from jax._src.clusters import ClusterEnv

from qt_jax.errors import UserError
from qt_jax.training.peers import Peers, join


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.coordinator = ""  # host:port of process 0; empty: found from SLURM, GKE, TPU metadata or OpenMPI, else one process
    config.num_processes = 0
    config.process_id = -1
    config.start_timeout_s = 300  # until every process is there
    config.heartbeat_timeout_s = 30  # without a word from a process until the others stop; a death stops them at once
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
    # JAX's port on SLURM is the job's number: the second one that we need is the next job's, which may run on the same nodes.
    port = str(61440 + 2 * (int(os.environ["SLURM_JOB_ID"]) % 2048)) if env.name == "slurm" else None
    address = env.get_coordinator_address(timeout_secs=settings.start_timeout_s, override_coordinator_port=port)
    return Cluster(address, env.get_process_count(), env.get_process_id())


def start(settings: Any) -> Peers:
    """Joins the cluster, if there is one. Call before anything touches a device; the roll call uses the port after the coordinator's.

    Raises:
        UserError: naming the processes that are not there within `start_timeout_s`.
    """
    cluster = find(settings)
    if cluster is None or cluster.num_processes == 1:
        return Peers()
    if settings.heartbeat_timeout_s < 5:
        raise UserError(f"config.distributed.heartbeat_timeout_s is {settings.heartbeat_timeout_s}; give 5 seconds or more.")
    host, port = cluster.coordinator.rsplit(":", 1)
    if cluster.process_id == 0:
        _check_free(int(port))
    neighbour = int(port) + (1 if int(port) < 65535 else -1)
    peers = join((host, neighbour), cluster.num_processes, cluster.process_id, settings.start_timeout_s, settings.heartbeat_timeout_s)
    jax.config.update("jax_enable_preemption_service", False)  # until there is a step to save (preemption.py)
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        initialization_timeout=settings.start_timeout_s,
        heartbeat_timeout_seconds=2 * settings.heartbeat_timeout_s,  # JAX's own abort names nobody: `peers` speaks first
    )
    return peers


def _check_free(port: int) -> None:
    """JAX's own service crashes at a port that is taken."""
    try:
        socket.create_server(("", port)).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"Process 0 cannot listen on port {port} ({error}); set config.distributed.coordinator.") from error
