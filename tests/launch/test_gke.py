"""JobSets: sizes that agree, values as they were given, hosts that find each other, pods' settings."""

import re

import pytest
import yaml

from launch import gke, tpus
from launch.__main__ import main
from launch.runs import sweep
from qt_jax.errors import UserError
from qt_jax.training import distributed
from tests.launch.test_launch import BUCKET

TPUS = ("--image=r/qt:1", "--accelerator=tpu-v5-lite-podslice", "--topology=4x4", "--hosts=4", "--chips=4")
GPUS = ("--image=r/qt:1", "--accelerator=nvidia-h100-80gb", "--hosts=2", "--chips=8")


def job(capsys, *given):
    """Returns (name of the JobSet, its job, the job's pod, the pod's container)."""
    main(["gke", *given])
    jobset = yaml.safe_load(capsys.readouterr().out)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    return jobset["metadata"]["name"], replicated, pod, pod["containers"][0]


@pytest.mark.parametrize("accelerator, topology, hosts, chips", [
    ("tpu-v5-lite-podslice", "1x1", 1, 1), ("tpu-v5-lite-podslice", "2x4", 1, 8),
    ("tpu-v5-lite-podslice", "2x4", 2, 4), ("tpu-v5-lite-podslice", "16x16", 64, 4),
    ("tpu-v5-lite-device", "2x4", 1, 8), ("tpu-v6e-slice", "4x8", 8, 4),
    ("tpu-v4-podslice", "2x2x1", 1, 4), ("tpu-v4-podslice", "4x4x8", 32, 4), ("tpu-v5p-slice", "2x2x4", 4, 4),
    ("tpu-v5p-slice", "8x8x12", 192, 4), ("tpu-v3-device", "2x2", 1, 4), ("tpu7x", "2x2x2", 2, 4),
])  # fmt: skip
def test_slices_that_there_are(accelerator, topology, hosts, chips):
    tpus.check(accelerator, topology, hosts, chips)


@pytest.mark.parametrize("accelerator, topology, hosts, chips, message", [
    ("tpu-v5-lite-podslice", "4x4", 3, 4, "has 16 chips, expected --hosts=4 --chips=4"),
    ("tpu-v5-lite-podslice", "4x4", 2, 8, "has 16 chips, expected --hosts=4 --chips=4"),
    ("tpu-v6e-slice", "2x4", 4, 2, "expected --hosts=1 --chips=8 or --hosts=2 --chips=4"),
    ("tpu-v5-lite-device", "2x4", 2, 4, "expected --hosts=1 --chips=8"),
    ("tpu-v5p-slice", "2x2x2", 1, 8, "expected --hosts=2 --chips=4"),
    ("tpu-v5-lite-podslice", "4x5", 5, 4, "slices of tpu-v5-lite-podslice are 1x1, 2x2"),
    ("tpu-v5-lite-podslice", "2x2x4", 4, 4, "slices of tpu-v5-lite-podslice are 1x1"),
    ("tpu-v4-podslice", "4x4", 4, 4, "slices of tpu-v4-podslice are 2x2x1"),
    ("tpu-v5p-slice", "4x4x6", 24, 4, "slices of tpu-v5p-slice are"),
    ("tpu-v5p-slice", "8x4x4", 32, 4, "slices of tpu-v5p-slice are"),
    ("tpu-v4-podslice", "0x0x0", 1, 4, "slices of tpu-v4-podslice are"),
    ("tpu-v5-litepod", "4x4", 4, 4, "expected one of tpu-v3-device"),
    ("nvidia-l4", "4x4", 4, 4, "expected one of tpu-v3-device"),
])  # fmt: skip
def test_slices_that_there_are_not(accelerator, topology, hosts, chips, message):
    with pytest.raises(UserError, match=message):
        tpus.check(accelerator, topology, hosts, chips)


@pytest.mark.parametrize("given, message", [
    ((*TPUS, "--config.data.batch_size=24"), "on 16 devices: .*batch_size is 24, expected a multiple of 16"),
    ((*TPUS, "--config.mesh.fsdp=3", "--config.data.batch_size=48"), "on 16 devices: .*together 3 on 16"),
    ((*TPUS, "--config.train.accumulation=2"), "on 16 devices: .*expected a multiple of 32"),
    ((*TPUS, "--slices=2"), "on 32 devices: .*expected a multiple of 32"),
    ((*TPUS, "--slices=3", "--config.mesh.data=1", "--config.mesh.fsdp=16", "--config.mesh.tensor=3"),
     "config.mesh.data=1 and config.mesh.fsdp=16: one must be a multiple of the 3 slices"),
    ((*GPUS, "--hosts=3"), "on 24 devices: .*expected a multiple of 24"),
    ((*GPUS, "--slices=2"), "several slices are TPUs'"),
    ((*TPUS, "--topology="), "without --topology: give a GPU such as nvidia-h100-80gb"),
    ((*GPUS, "--accelerator=nvidia-h100 x"), "give a GPU such as nvidia-h100-80gb"),
    ((*GPUS, "--config.distributed.num_processes=1"), "num_processes is 1 for every host"),
    ((*TPUS, "--image="), "--image='': expected an image's name"),
    ((*TPUS, "--node-selector=cloud.google.com/gke-tpu-topology=2x2"), "--accelerator and --topology give"),
    ((*TPUS, "--node-selector=a=b", "--node-selector=a=c"), "--node-selector is given twice for a;"),
    ((*TPUS, "--env=A=b", "--env=A=c"), "--env is given twice for A;"),
    ((*TPUS, "--env=JOB_COMPLETION_INDEX=0"), "Kubernetes sets it"),
    ((*TPUS, "--volume=pvc/a:/data", "--config.workdir=/data/../run"), "give a bucket"),
    ((*TPUS, "--volume=pvc/a:/data", "--config.workdir=/database/run"), "give a bucket"),
    ((*TPUS, "--namespace=My Lab"), "--namespace='My Lab'"),
    ((*TPUS, "--volume=memory/8Gi:/data", "--config.workdir=/data/run"), "give a bucket"),
])  # fmt: skip
def test_what_does_not_agree_is_refused_by_the_launcher(given, message):
    with pytest.raises(UserError, match=message):
        main(["gke", *BUCKET, *given])


def test_cores_count_where_jax_sees_them(capsys):
    cube = ("--image=r/qt:1", "--accelerator=tpu7x", "--topology=2x2x1", "--hosts=1", "--chips=4")
    job(capsys, *cube, *BUCKET, "--config.data.batch_size=8")
    with pytest.raises(UserError, match="on 8 devices"):
        main(["gke", *cube, *BUCKET, "--config.data.batch_size=4"])


def expanded(text, **variables):
    """Replaces as Kubernetes does: $(NAME) where it knows the name, and $$ by one $."""

    def known(match):
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\((\w+)\)", known, text)


def test_values_are_still_themselves_after_kubernetes_has_replaced_what_it_knows(capsys):
    values = ["gs://b/$(HOME)", "a$$b$", "$$(HOME) $HOME ${HOME}", "a: 'b'\n\"c\" # é", "-x", "yes"]
    settings = [f"--config.data.root={value}" for value in values]
    variables = [f"--env=V{i}={value}" for i, value in enumerate(values)]
    *_, container = job(capsys, *GPUS, *BUCKET, *settings, *variables)
    assert [expanded(text, HOME="/root") for text in container["command"]][8:14] == settings
    assert [expanded(variable["value"], HOME="/root") for variable in container["env"]] == values


@pytest.mark.parametrize("hosts", [1, 2])
def test_gpu_hosts_find_each_other_without_asking_kubernetes(capsys, monkeypatch, hosts):
    """The command suffices, with the number that Kubernetes gives each pod of an indexed job."""
    name, replicated, pod, container = job(capsys, *GPUS, f"--hosts={hosts}", *BUCKET)
    assert replicated["name"] == "hosts" and replicated["template"]["spec"]["completionMode"] == "Indexed"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    settings = distributed.get_config()
    for argument in container["command"]:
        text = expanded(argument, JOB_COMPLETION_INDEX="1")
        if match := re.fullmatch(r"--config\.distributed\.(\w+)=(.*)", text):
            settings[match[1]] = type(settings[match[1]])(match[2])
    found = distributed.find(settings)
    assert found == (None if hosts == 1 else distributed.Cluster(f"{name}-hosts-0-0.{name}:8476", 2, 1))


def test_a_host_that_is_alone_gets_that_setting_once(capsys):
    *_, container = job(capsys, *GPUS, "--hosts=1", *BUCKET, "--config.distributed.num_processes=1")
    assert sum("distributed" in argument for argument in container["command"]) == 1


def test_several_slices_are_as_many_jobs(capsys):
    _, replicated, _, container = job(capsys, *TPUS, "--slices=2", *BUCKET, "--config.data.batch_size=32")
    assert replicated["replicas"] == 2 and replicated["template"]["spec"]["parallelism"] == 4
    # GKE's own variables say who the hosts are.
    assert not [argument for argument in container["command"] if "distributed" in argument]


def test_gke_asks_for_gpus_where_there_is_no_topology(capsys):
    *_, container = job(capsys, *GPUS, *BUCKET)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_volumes_secrets_and_nodes(capsys):
    volumes = ["pvc/data-1:/data", "gcs/lab:/b", "nfs/10.0.0.2/export:/n", "secret/key:/k"]
    volumes += ["configmap/c:/c", "memory/8Gi:/dev/shm"]
    given = [f"--volume={volume}" for volume in volumes]
    given += ["--secret=wandb", "--env=A=b=c", "--node-selector=cloud.google.com/gke-spot=true"]
    given += [f"--toleration={taint}" for taint in ("a", "a/b=c:NoSchedule", "d:NoExecute")]
    _, replicated, pod, container = job(capsys, *GPUS, *BUCKET, *given, "--config.workdir=/data/runs/a")
    assert [volume.popitem()[1] for volume in pod["volumes"]] == [
        {"claimName": "data-1"},
        {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": "lab"}},
        {"server": "10.0.0.2", "path": "/export"}, {"secretName": "key"}, {"name": "c"},
        {"medium": "Memory", "sizeLimit": "8Gi"},
    ]  # fmt: skip
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert paths == ["/data", "/b", "/n", "/k", "/c", "/dev/shm"]
    metadata = replicated["template"]["spec"]["template"]["metadata"]
    assert metadata["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert container["envFrom"] == [{"secretRef": {"name": "wandb"}}]
    assert container["env"] == [{"name": "A", "value": "b=c"}]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    effects = [toleration.get("effect", "") for toleration in pod["tolerations"]]
    assert effects == ["", "NoSchedule", "NoExecute"]


@pytest.mark.parametrize("given", [
    "--env=A", "--env=1A=b", "--env=A B=c", "--secret=My_Secret", "--volume=/data", "--volume=disk/x:/data",
    "--volume=pvc/x:data", "--volume=pvc/A_B:/data", "--volume=nfs/server:/data",
    "--volume=memory/lots:/data", "--volume=gcs/a/b:/data", "--node-selector=spot", "--toleration=a:Never",
])  # fmt: skip
def test_what_kubernetes_would_not_take_is_one_line(given):
    message = re.escape(given.partition("=")[0]) + ".*expected|no name of Kubernetes"
    with pytest.raises(UserError, match=message):
        main(["gke", *GPUS, *BUCKET, given])


def test_no_two_volumes_at_one_path():
    with pytest.raises(UserError, match="--volume is given twice for /data"):
        main(["gke", *GPUS, *BUCKET, "--volume=pvc/a:/data", "--volume=pvc/b:/data/"])


def test_no_two_jobsets_have_the_same_name(tmp_path, capsys):
    tail = {"train.init_from": "gs://lab/runs/a-long-name-of-a-run-before", "agent.conservatism": "softmax"}
    (tmp_path / "long.py").write_text(
        f"CONFIG = 'tests/tiny.py'\ndef overrides():\n    return [{{'seed': n, **{tail}}} for n in (0, 1)]\n"
    )
    runs = sweep(str(tmp_path / "long.py"), ["--config.workdir=gs://lab/w"])
    names = {gke.kubernetes_name(run) for run in runs}
    assert len(names) == 2 and all(len(name) < 50 for name in names)
