"""Several processes: finds out which take part, waits for all of them, and starts JAX's own runtime."""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Any

import jax
import ml_collections
from jax._src.clusters import ClusterEnv, K8sCluster

from qt_jax.errors import UserError
from qt_jax.training.peers import Peers, join


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults."""
    config = ml_collections.ConfigDict()
    config.coordinator = ""  # host:port of process 0; empty: found from SLURM, GKE, TPU metadata or OpenMPI
    config.num_processes = 0  # without a coordinator: 1 for this one alone, whatever the environment says
    config.process_id = -1  # of this one, from 0; with a coordinator
    config.start_timeout_s = 300  # until every process is there
    config.heartbeat_timeout_s = 30  # silence of a process until the others stop; a death stops them at once
    return config


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, and which of them this is; `coordinator` is "host:port" of process 0."""

    coordinator: str
    num_processes: int
    process_id: int


def check(settings: Any) -> None:
    """Raises a UserError if `config.distributed` has half of what describes a cluster."""
    given = (
        f"config.distributed has coordinator={settings.coordinator!r}, "
        f"num_processes={settings.num_processes}, process_id={settings.process_id}"
    )
    if settings.coordinator:
        port = settings.coordinator.rpartition(":")[2]
        in_range = port.isdecimal() and 0 < int(port) < 2**16
        if not (in_range and 0 <= settings.process_id < settings.num_processes):
            raise UserError(f"{given}; give host:port, the number of processes and this one's number from 0.")
    elif (settings.num_processes, settings.process_id) not in ((0, -1), (1, -1), (1, 0)):
        raise UserError(
            f"{given}; give coordinator=host:port with them, none of the three to have them found, or "
            "num_processes=1 for a process alone."
        )


def find(settings: Any) -> Cluster | None:
    """Finds the cluster that `config.distributed` or the environment describes; None for a single process.

    Raises:
        UserError: if the settings are incomplete, or the environment is one of several processes and does not
            say which.

    """
    check(settings)
    if settings.coordinator:
        return Cluster(settings.coordinator, settings.num_processes, settings.process_id)
    if settings.num_processes == 1:
        return None  # whatever the environment says
    try:
        return _found(settings.start_timeout_s)
    except Exception as error:  # whatever a metadata server, the Kubernetes API or their libraries raise
        raise UserError(
            f"Which processes take part cannot be found out ({' '.join(str(error).split())}); set "
            "config.distributed.num_processes=1 for this one alone, or coordinator, num_processes and "
            "process_id."
        ) from error


def _found(timeout_s: int) -> Cluster | None:
    """Returns what JAX finds in the environment.

    On Kubernetes JAX asks the API, for which an account needs rights. It is asked only in a pod that has a
    number within a job: another pod is a single process.
    """
    numbered = "JOB_COMPLETION_INDEX" in os.environ
    kinds = [kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method]
    env = next(
        (kind for kind in kinds if (numbered or kind is not K8sCluster) and kind.is_env_present()), None
    )
    if env is None and numbered:
        raise RuntimeError("this pod has a number within a job, and no package `kubernetes` to ask with")
    if env is None or env.get_process_count() == 1:
        return None
    # JAX derives its port on SLURM from the job's number. The roll call needs the port after it too, which
    # would be the next job's; hence twice the number.
    port = str(61440 + 2 * (int(os.environ["SLURM_JOB_ID"]) % 2048)) if env.name == "slurm" else None
    address = env.get_coordinator_address(timeout_secs=timeout_s, override_coordinator_port=port)
    return Cluster(address, env.get_process_count(), env.get_process_id())


def start(settings: Any) -> Peers:
    """Joins the cluster, if there is one. Must be called before anything touches a device.

    The roll call uses the port after the coordinator's.

    Raises:
        UserError: naming the processes that have not come within `start_timeout_s`.

    """
    cluster = find(settings)
    if cluster is None or cluster.num_processes == 1:
        return Peers()
    if settings.heartbeat_timeout_s < 5:
        raise UserError(
            f"config.distributed.heartbeat_timeout_s is {settings.heartbeat_timeout_s}; give 5 s or more."
        )
    host, port = cluster.coordinator.rsplit(":", 1)
    if cluster.process_id == 0:
        _check_free(int(port))
    neighbour = int(port) + (1 if int(port) < 65535 else -1)
    peers = join(
        (host, neighbour),
        cluster.num_processes,
        cluster.process_id,
        settings.start_timeout_s,
        settings.heartbeat_timeout_s,
    )
    jax.config.update("jax_enable_preemption_service", False)  # until there is a step to save (preemption.py)
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.num_processes,
        cluster.process_id,
        initialization_timeout=settings.start_timeout_s,
        # JAX's own abort does not say which process is lost; `peers` must be first.
        heartbeat_timeout_seconds=2 * settings.heartbeat_timeout_s,
    )
    return peers


def _check_free(port: int) -> None:
    """Raises a UserError if a port is taken, at which JAX's own service would crash."""
    try:
        socket.create_server(("", port)).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Process 0 cannot listen on port {port} ({error}); set config.distributed.coordinator."
        ) from error
