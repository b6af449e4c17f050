"""GKE: one JobSet a run (jobset.sigs.k8s.io; XPK installs it in the clusters it makes), for TPU slices or GPU
nodes.
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
"""Where the first of several GPU hosts listens, and at the next one."""
HOSTS = "hosts"
"""Name of a JobSet's jobs: one a slice, or one of all GPU hosts."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """Nodes that a run has. accelerator, topology: the labels of a TPU pool, such as tpu-v5-lite-podslice and
    4x4; of a GPU pool, such as nvidia-h100-80gb, accelerator alone. hosts: of a slice, or of all GPUs; chips:
    a node's chips or GPUs. queue: Kueue's, none: "". env, secret, volume, node_selector, toleration: as the
    arguments have them. grace_s: from SIGTERM to SIGKILL.
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
    """Raises a UserError where chips, hosts, topology, mesh and batch do not agree, or a work directory dies
    with the pod.
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
            raise UserError(
                f"--{name.replace('_', '-')}={value!r}: expected lower-case letters, digits and dashes."
            )
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
    """The JobSet of a run."""
    name = kubernetes_name(run)
    metadata: dict[str, Any] = {"name": name, "namespace": pool.namespace}
    if pool.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": pool.queue}
    if pool.topology:  # a slice is a node pool, which one run has for itself
        resource = "google.com/tpu"
        selector = {
            "cloud.google.com/gke-tpu-accelerator": pool.accelerator,
            "cloud.google.com/gke-tpu-topology": pool.topology,
        }
        metadata["annotations"] = {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
        }
    else:
        resource, selector = "nvidia.com/gpu", {"cloud.google.com/gke-accelerator": pool.accelerator}
    container = {
        "name": "qt-jax",
        "image": pool.image,
        "command": [*map(pods.literal, run.commands()[0]), *_each_other(run, pool, name)],
        "resources": {"limits": {resource: pool.chips}},
        **pods.environment(pool.env, pool.secret),
    }
    pod = {
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
    # A status that asks for a start again, or a lost node, fails the job, and the JobSet starts all of its
    # pods anew; any other ends it.
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


def _each_other(run: Run, pool: Pool, name: str) -> list[str]:
    """Settings by which GPU hosts find each other, so that none asks the Kubernetes API, for which its
    account needs rights; TPU hosts know by variables that GKE sets. The first host has the name that JobSet
    gives it, each has its number from Kubernetes.
    """
    if pool.topology or run.config.distributed.num_processes:  # which says that one host is alone
        return []
    if pool.hosts == 1:
        return ["--config.distributed.num_processes=1"]
    return [
        f"--config.distributed.coordinator={name}-{HOSTS}-0-0.{name}:{PORT}",
        f"--config.distributed.num_processes={pool.hosts}",
        "--config.distributed.process_id=$(JOB_COMPLETION_INDEX)",
    ]


def manifests(runs: Sequence[Run], pool: Pool) -> str:
    """All of them as one file for `kubectl apply -f -`. Raises as `check` does."""
    check(runs, pool)
    return yaml.safe_dump_all([manifest(run, pool) for run in runs], sort_keys=False)


def kubernetes_name(run: Run) -> str:
    """A DNS label: of a long name the end, where a sweep's runs differ most; and of its directory a hash, so
    that no two are alike.
    """
    label = re.sub("[^a-z0-9]+", "-", run.name.lower()).strip("-")
    return f"qt-{label[-32:].strip('-')}-{hashlib.sha256(run.workdir.encode()).hexdigest()[:6]}"
