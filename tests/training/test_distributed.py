"""Who takes part, as settings and environments say it."""

import sys
import types

import pytest
from jax._src.clusters import ClusterEnv, K8sCluster

from qt_jax.errors import UserError
from qt_jax.training import distributed

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}


def find(**given):
    settings = distributed.get_config()
    settings.update(given)
    return distributed.find(settings)


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("slurm")
def test_one_process_that_was_asked_for_is_alone_within_an_allocation_of_many():
    assert find().num_processes == 8
    assert find(num_processes=1) is None and find(num_processes=1, process_id=0) is None
    assert find(coordinator="h:99", num_processes=1, process_id=0) == distributed.Cluster("h:99", 1, 0)


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("given", [
    {"num_processes": 4}, {"process_id": 2}, {"num_processes": -1}, {"num_processes": 1, "process_id": 3},
    {"coordinator": "h", "num_processes": 2, "process_id": 0},
    {"coordinator": "h:x", "num_processes": 2, "process_id": 0},
    {"coordinator": "h:70000", "num_processes": 2, "process_id": 0},
    {"coordinator": "h:99", "num_processes": 2, "process_id": 2},
    {"coordinator": "h:99"},
])  # fmt: skip
def test_half_of_a_cluster_is_refused_and_not_passed_over(given):
    with pytest.raises(UserError, match="config.distributed has coordinator=.*; give "):
        find(**given)


class Refused(Exception):
    status, reason = 403, "Forbidden"


class Api:
    """Of Kubernetes, for an account without rights."""

    def __getattr__(self, name):
        def call(*_, **__):
            raise Refused()

        return call


@pytest.fixture
def pod(monkeypatch):
    """A pod whose image has the package `kubernetes`."""
    exceptions = types.SimpleNamespace(ApiException=Refused)
    client = types.SimpleNamespace(CoreV1Api=Api, BatchV1Api=Api, exceptions=exceptions)
    config = types.SimpleNamespace(load_incluster_config=lambda: None)
    monkeypatch.setitem(sys.modules, "kubernetes", types.SimpleNamespace(client=client, config=config))
    monkeypatch.setattr(K8sCluster, "_namespace", classmethod(lambda cls: "default"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HOSTNAME", "localhost")


@pytest.mark.usefixtures("pod")
def test_one_pod_needs_no_right_to_list_pods(monkeypatch):
    assert find() is None
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert find(num_processes=1) is None
    assert find(coordinator="h:99", num_processes=2, process_id=1) == distributed.Cluster("h:99", 2, 1)
    with pytest.raises(
        UserError, match="cannot be found out .*403 - Forbidden.*; set config.distributed.num_processes=1"
    ):
        find()


def test_a_pod_with_a_number_and_nobody_to_ask_is_not_alone(monkeypatch):
    """As in our images, which have no package `kubernetes`; else each of many would train by itself."""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(UserError, match="has a number within a job"):
        find()


def test_an_environment_that_does_not_answer_is_one_line(monkeypatch):
    broken = types.SimpleNamespace(opt_in_only_method=False, is_env_present=lambda: 1 / 0)
    monkeypatch.setattr(ClusterEnv, "_cluster_types", [broken])
    with pytest.raises(UserError, match="division by zero"):
        find()
