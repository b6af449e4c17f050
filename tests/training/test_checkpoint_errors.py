"""What is said of a checkpoint that cannot be read: only where its files are at fault may they go."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import absl.logging
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.errors import JaxRuntimeError

from qt_jax import faults
from qt_jax.errors import UserError
from qt_jax.models import network
from qt_jax.training import checkpoints
from qt_jax.training.checkpoint_errors import only_once
from qt_jax.training.state import TrainState

SETTINGS = SimpleNamespace(keep_best=0, best_metric="", keep_checkpoints=2, save_timeout_s=60)
ASSETS = SimpleNamespace(to_json=lambda: {"x": 1})


def state_of(*names: str, shape=(64, 64)) -> TrainState:
    params = {name: {"kernel": jax.random.normal(jax.random.key(0), shape)} for name in names}
    moments = optax.adamw(1e-3).init(params)
    return TrainState(jnp.asarray(5, jnp.int32), params, {}, moments)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("written")
    for step in (3, 5):
        checkpointer = checkpoints.Checkpointer(str(workdir), SETTINGS)
        state = dataclasses.replace(state_of("a"), step=jnp.asarray(step, jnp.int32))
        checkpointer.save(state, {"batches": step}, ASSETS, {"productive_s": 1.0}, {})
        checkpointer.close()
    return workdir


@pytest.fixture
def workdir(written, tmp_path) -> Path:
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def said(workdir: Path, state: TrainState) -> str:
    with pytest.raises(UserError) as error:
        checkpoints.Checkpointer(str(workdir), SETTINGS).restore(state)
    return str(error.value)


def test_settings_of_the_run_are_in_no_checkpoint(workdir):
    state = checkpoints.Checkpointer(str(workdir), SETTINGS).restore(state_of("a"))[0]
    assert int(state.step) == 5 and state.settings == {}


@pytest.mark.parametrize(
    "wanted, expected",
    [
        (state_of("a", "b"), "no parameter params.b.kernel, this config's network has (64, 64)"),
        (state_of("b"), "parameter params.a.kernel of shape (64, 64), this config's network has none"),
        (
            state_of("a", shape=(64, 32)),
            "params.a.kernel of shape (64, 64), this config's network has (64, 32)",
        ),
        (
            dataclasses.replace(state_of("a"), target_params=state_of("a").params),
            "no parameter target_params.a.kernel",
        ),
    ],
    ids=["one more", "another name", "another shape", "a target network"],
)
def test_another_network_is_no_damage(workdir, wanted, expected):
    message = said(workdir, wanted)
    assert expected in message and "is whole" in message and "delete" not in message


OUTSIDE = {
    "memory": (
        JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes."),
        "memory ran out",
    ),
    "host memory": (MemoryError(), "memory ran out"),
    "permission": (PermissionError(13, "Permission denied"), "access is not permitted"),
    "permission in a bucket": (
        ValueError("PERMISSION_DENIED: Error reading GCS object: HTTP 403"),
        "access is not permitted",
    ),
    "files": (
        ValueError("RESOURCE_EXHAUSTED: Failed to open [OS error 24: EMFILE Too many open files]"),
        "too many files",
    ),
    "disk": (OSError(errno.EIO, "Input/output error"), "the storage failed"),
    "network": (ValueError("UNAVAILABLE: connection to storage.example"), "the storage failed"),
    "stale": (OSError(errno.ESTALE, "Stale file handle"), "the storage failed"),
    "device": (JaxRuntimeError("INTERNAL: CUDA_ERROR_ILLEGAL_ADDRESS"), "the device failed"),
}


@pytest.mark.parametrize("error, expected", OUTSIDE.values(), ids=OUTSIDE)
def test_what_lies_outside_of_the_files_is_told_with_its_own_remedy(workdir, monkeypatch, error, expected):
    def fails(*_, **__):
        raise ValueError("could not restore") from error  # as Orbax wraps what TensorStore raised

    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "restore", fails)
    message = said(workdir, state_of("a"))
    assert (
        expected in message
        and "leave them" in message
        and "damaged" not in message
        and "delete" not in message
    )


def test_an_unknown_error_keeps_the_files(workdir, monkeypatch):
    monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "restore", lambda *_, **__: 1 + "")
    message = said(workdir, state_of("a"))
    assert "may be whole, so keep them" in message and "checkpoints/3" in message and "delete" not in message


@pytest.mark.parametrize("harm", ["cut", "empty", "gone"])
@pytest.mark.parametrize(
    "name", ["train_state/_METADATA", "train_state/manifest.ocdbt", "clock/metadata", "data"]
)
def test_damage_is_called_damage(workdir, name, harm):
    step = workdir / "checkpoints" / "5"
    path = (
        max((step / "params").glob("ocdbt*/d/*"), key=lambda p: p.stat().st_size)
        if name == "data"
        else step / name
    )
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if harm == "cut" else 0])
    assert (
        "checkpoints/5 is damaged" in (message := said(workdir, state_of("a"))) and "continue from" in message
    )


@pytest.mark.parametrize("name", ["bak_5", "5.bak", "5_damaged", "05"])
def test_a_checkpoint_that_was_moved_within_its_directory_is_none(workdir, name):
    """As the message of a damaged one asks."""
    steps = workdir / "checkpoints"
    (steps / "5").rename(steps / name)
    assert checkpoints.latest_step(str(workdir)) == 3
    assert checkpoints.Checkpointer(str(workdir), SETTINGS).latest_step == 3


def test_assets_and_directories_that_cannot_be_read_are_not_damaged(workdir, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoints.ocp.JsonCheckpointHandler, "restore", denied)
    with pytest.raises(UserError, match="checkpoints/5 cannot be read: access is not permitted"):
        checkpoints.load_assets(str(workdir))
    monkeypatch.setattr("orbax.checkpoint.utils.checkpoint_steps_paths", denied)
    with pytest.raises(UserError, match="checkpoints cannot be listed .*access is not permitted"):
        checkpoints.exists(str(workdir))


def test_a_policy_of_other_code_is_named_at_the_export(trained, tmp_path, monkeypatch):
    """What has no config of its own to compare with: the parameters against the network of this code."""
    real = network.Network.init

    def one_more(self, key):
        return real(self, key) | {"new_head": jnp.zeros(3)}

    monkeypatch.setattr(network.Network, "init", one_more)
    with pytest.raises(
        UserError, match=r"has no parameter new_head, this config's network has \(3,\).*is whole"
    ):
        checkpoints.load_params(trained.workdir)


@pytest.mark.parametrize(
    "number, expected",
    [
        (errno.ENOSPC, "the storage is full.*free space"),
        (errno.EDQUOT, "the storage is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "access is not permitted"),
    ],
)
def test_a_save_that_fails_says_why_and_what_there_is(workdir, monkeypatch, number, expected):
    checkpointer = checkpoints.Checkpointer(str(workdir), SETTINGS)

    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpointer._manager, "save", fails)
    with pytest.raises(
        UserError, match=f"cannot be written .*{expected}.* the last complete checkpoint is .*checkpoints/5"
    ):
        checkpointer.save(state_of("a"), {}, ASSETS, {}, {})


def test_a_checkpoint_without_a_measure_is_no_best_one(tmp_path):
    """Told to stop before any validation, a run with keep_best is saved all the same."""
    settings = SimpleNamespace(
        keep_best=1, best_metric="validation/loss", keep_checkpoints=1, save_timeout_s=60
    )
    checkpointer = checkpoints.Checkpointer(str(tmp_path), settings)
    with pytest.raises(UserError, match="measured are"):
        checkpointer.save(state_of("a"), {}, ASSETS, {}, {})
    checkpointer.save(state_of("a"), {}, ASSETS, {}, None)
    checkpointer.close()
    assert checkpoints.latest_step(str(tmp_path)) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_fails_in_orbax_threads_is_said_once(monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    monkeypatch.setattr(absl.logging.get_absl_logger(), "filters", [])
    only_once()
    for file in ("site-packages/orbax/futures.py", "qt_jax/loop.py"):
        failing = {}
        exec(compile("def fails():\n raise OSError(28, 'full')", file, "exec"), failing)
        thread = threading.Thread(target=failing["fails"])
        thread.start()
        thread.join()
    (failed,) = printed
    assert failed.exc_traceback.tb_next.tb_next.tb_frame.f_code.co_filename == "qt_jax/loop.py"
    for path, expected in ("orbax/future.py", False), ("jax/x.py", True):
        record = logging.LogRecord("absl", logging.ERROR, path, 1, "", (), None)
        assert bool(absl.logging.get_absl_logger().filter(record)) is expected


@pytest.mark.parametrize(
    "error",
    [
        ValueError('NOT_FOUND: "/runs/Connection timed out/401" does not exist'),
        ValueError("OUT_OF_RANGE: Requested byte range [0, 503) is not valid for value of size 401"),
        json.JSONDecodeError("Expecting value", "", 0),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
    ids=["name", "sizes", "json", "missing"],
)
def test_damage_is_not_taken_for_something_else(error):
    assert faults.find(error) is None
