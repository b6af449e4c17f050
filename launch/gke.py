"""GKE: one JobSet a run (jobset.sigs.k8s.io; XPK installs it in the clusters it makes), for TPU slices or GPU nodes."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import yaml

from launch.runs import AGAIN, KILLED, Run
from qt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pool:
    """Nodes that a run has. accelerator, topology: the labels of a TPU pool, such as tpu-v5-lite-podslice and 4x4; of a GPU pool, such as
    nvidia-h100-80gb, accelerator alone. hosts, chips: of all nodes, and a node's chips or GPUs. queue: Kueue's, none: "". grace_s: from
    SIGTERM to SIGKILL."""

    image: str
    accelerator: str
    hosts: int
    chips: int
    topology: str
    namespace: str
    queue: str
    service_account: str
    grace_s: int
    restarts: int


def manifest(run: Run, pool: Pool) -> dict[str, Any]:
    """The JobSet of a run. Raises a UserError for a work directory that dies with the pod."""
    if "://" not in run.workdir:
        raise UserError(
            f"config.workdir is {run.workdir!r}, on a disk that goes with the pod; give a bucket: --config.workdir=gs://BUCKET/runs/NAME."
        )
    metadata: dict[str, Any] = {"name": _kubernetes_name(run), "namespace": pool.namespace}
    if pool.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": pool.queue}
    if pool.topology:  # a slice is a node pool, which one run has for itself
        resource = "google.com/tpu"
        selector = {"cloud.google.com/gke-tpu-accelerator": pool.accelerator, "cloud.google.com/gke-tpu-topology": pool.topology}
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    else:
        resource, selector = "nvidia.com/gpu", {"cloud.google.com/gke-accelerator": pool.accelerator}
    container = {
        "name": "qt-jax",
        "image": pool.image,
        "command": run.commands()[0],
        "resources": {"limits": {resource: pool.chips}},
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pool.grace_s,
        "serviceAccountName": pool.service_account,
        "nodeSelector": selector,
        "containers": [container],
    }
    # A status that asks for a start again, or a lost node, fails the job, and the JobSet starts all of its pods anew; any other ends it.
    again = {"action": "FailJob", "onExitCodes": {"containerName": "qt-jax", "operator": "NotIn", "values": [*AGAIN, *KILLED]}}
    job = {
        "parallelism": pool.hosts,
        "completions": pool.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [again]},
        "template": {"spec": pod},
    }
    rules = [{"name": "badinput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": pool.restarts, "rules": rules},
            "replicatedJobs": [{"name": "hosts", "replicas": 1, "template": {"spec": job}}],
        },
    }


def manifests(runs: Sequence[Run], pool: Pool) -> str:
    """All of them as one file for `kubectl apply -f -`."""
    return yaml.safe_dump_all([manifest(run, pool) for run in runs], sort_keys=False)


def _kubernetes_name(run: Run) -> str:
    """A DNS label: of a long name the end, where a sweep's runs differ most; and of its directory a hash, so that no two are alike."""
    label = re.sub("[^a-z0-9]+", "-", run.name.lower()).strip("-")
    return f"qt-{label[-32:].strip('-')}-{hashlib.sha256(run.workdir.encode()).hexdigest()[:6]}"
