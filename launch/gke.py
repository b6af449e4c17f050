"""Writes a GKE JobSet for each run, for TPU slices or GPU nodes.

A cluster needs jobset.sigs.k8s.io, which XPK installs in the clusters that it makes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from launch import pods, tpus
from launch.runs import AGAIN, KILLED, Run, check_devices, check_distributed
from qt_jax.errors import UserError

PORT = 8476
"""Port of the first of several GPU hosts, which uses the next port too."""
HOSTS = "hosts"
"""Name of a JobSet's jobs: one job for each slice, or one for all GPU hosts."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The nodes and settings that each run gets.

    Attributes:
        image: the container's image.
        accelerator: label of a TPU pool, such as tpu-v5-lite-podslice, or GPU pool, such as nvidia-h100-80gb.
        topology: label of a TPU pool, such as 4x4; empty for GPUs.
        slices: TPU slices of a run.
        hosts: nodes of a slice, or of all GPUs.
        chips: TPU chips or GPUs of a node.
        namespace: of Kubernetes.
        queue: of Kueue; empty: none.
        service_account: of the pods.
        env, secret, volume, node_selector, toleration: as the arguments have them.
        grace_s: seconds from SIGTERM to SIGKILL.
        restarts: how often a run is started again.

    """

    image: str
    accelerator: str
    topology: str
    slices: int
    hosts: int
    chips: int
    namespace: str
    queue: str
    service_account: str
    env: Sequence[str]
    secret: Sequence[str]
    volume: Sequence[str]
    node_selector: Sequence[str]
    toleration: Sequence[str]
    grace_s: int
    restarts: int


def check(runs: Sequence[Run], pool: Pool) -> None:
    """Checks that the runs can work on these nodes.

    Raises:
        UserError: if chips, hosts, topology, mesh and batch do not agree, a value is none that Kubernetes
            takes, or a work directory is lost with the pod.

    """
    lasting = pods.lasting(pool.volume)
    for run in runs:
        inside = any(PurePosixPath(posixpath.normpath(run.workdir)).is_relative_to(path) for path in lasting)
        if "://" not in run.workdir and not inside:
            raise UserError(
                f"config.workdir is {run.workdir!r}, on a disk that goes with the pod; give a bucket: "
                "--config.workdir=gs://BUCKET/runs/NAME, or a directory of a --volume that lasts."
            )

    for name in ("namespace", "service_account", "queue"):
        value = getattr(pool, name)
        if value and not re.fullmatch(pods.NAME, value):
            flag = f"--{name.replace('_', '-')}={value!r}"
            raise UserError(f"{flag}: expected lower-case letters, digits and dashes.")
    if not re.fullmatch(r"[!-~]+", pool.image):
        raise UserError(f"--image={pool.image!r}: expected an image's name, such as REGISTRY/qt_jax:tpu.")

    check_distributed(runs, pool.slices * pool.hosts)
    cores = 1
    if pool.topology:
        tpus.check(pool.accelerator, pool.topology, pool.hosts, pool.chips)
        cores = tpus.KINDS[pool.accelerator].cores
    elif not re.fullmatch("nvidia-[a-z0-9-]+", pool.accelerator):
        raise UserError(
            f"--accelerator={pool.accelerator} without --topology: give a GPU such as nvidia-h100-80gb, or "
            "the topology of the TPU slice, such as 4x4."
        )
    elif pool.slices > 1:
        raise UserError(
            f"--slices={pool.slices} without --topology: several slices are TPUs'; of GPUs give all --hosts."
        )
    check_devices(runs, pool.slices * pool.hosts * pool.chips * cores, pool.slices)


def manifest(run: Run, pool: Pool) -> dict[str, Any]:
    """Returns the JobSet of a run."""
    name = kubernetes_name(run)
    metadata: dict[str, Any] = {"name": name, "namespace": pool.namespace}
    if pool.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": pool.queue}
    if pool.topology:  # a slice is a node pool, and belongs to one run
        resource = "google.com/tpu"
        selector = {
            "cloud.google.com/gke-tpu-accelerator": pool.accelerator,
            "cloud.google.com/gke-tpu-topology": pool.topology,
        }
        exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        metadata["annotations"] = {exclusive: "cloud.google.com/gke-nodepool"}
    else:
        resource, selector = "nvidia.com/gpu", {"cloud.google.com/gke-accelerator": pool.accelerator}

    container = {
        "name": "qt-jax",
        "image": pool.image,
        "command": [*map(pods.literal, run.commands()[0]), *_hosts_settings(run, pool, name)],
        "resources": {"limits": {resource: pool.chips}},
        **pods.environment(pool.env, pool.secret),
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pool.grace_s,
        "serviceAccountName": pool.service_account,
        "nodeSelector": selector | pods.labels(pool.node_selector, tuple(selector)),
        "containers": [container],
    }
    if pool.toleration:
        pod["tolerations"] = pods.tolerations(pool.toleration)
    template: dict[str, Any] = {"spec": pod}
    if pool.volume:
        pod["volumes"], container["volumeMounts"] = pods.volumes(pool.volume)
        if any("csi" in volume for volume in pod["volumes"]):
            template["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}

    # An exit status that asks for a restart, or a lost node, fails the job, and the JobSet starts all of its
    # pods again. Any other status ends the JobSet.
    again = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "qt-jax", "operator": "NotIn", "values": sorted(AGAIN + KILLED)},
    }
    job = {
        "parallelism": pool.hosts,
        "completions": pool.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [again]},
        "template": template,
    }

    rules = [{"name": "badinput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": pool.restarts, "rules": rules},
            "replicatedJobs": [{"name": HOSTS, "replicas": pool.slices, "template": {"spec": job}}],
        },
    }


def _hosts_settings(run: Run, pool: Pool, name: str) -> list[str]:
    """Returns settings by which GPU hosts find each other.

    Without them a host would ask the Kubernetes API, for which its account needs rights. The first host has
    the name that JobSet gives it, and each has its number from Kubernetes. TPU hosts need no settings: GKE
    sets variables.
    """
    if pool.topology or run.config.distributed.num_processes:  # it says that one host is alone
        return []
    if pool.hosts == 1:
        return ["--config.distributed.num_processes=1"]
    return [
        f"--config.distributed.coordinator={name}-{HOSTS}-0-0.{name}:{PORT}",
        f"--config.distributed.num_processes={pool.hosts}",
        "--config.distributed.process_id=$(JOB_COMPLETION_INDEX)",
    ]


def manifests(runs: Sequence[Run], pool: Pool) -> str:
    """Returns the JobSets of the runs as one file for `kubectl apply -f -`.

    Raises:
        UserError: as `check` does.

    """
    check(runs, pool)
    return yaml.safe_dump_all([manifest(run, pool) for run in runs], sort_keys=False)


def kubernetes_name(run: Run) -> str:
    """Returns the name of a run's JobSet, a DNS label.

    It has the end of the run's name, where a sweep's runs differ most, and a hash of the run's directory, so
    that no two names are the same.
    """
    label = re.sub("[^a-z0-9]+", "-", run.name.lower()).strip("-")
    return f"qt-{label[-32:].strip('-')}-{hashlib.sha256(run.workdir.encode()).hexdigest()[:6]}"
