"""Data and run in a bucket, through the real door, against an emulator of Google's storage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gcsfs.core import GCSFileSystem  # the other one asks for the kind of bucket, which the emulator does not know

from qt_jax import storage
from qt_jax.errors import UserError
from tests.conftest import ROOT
from tests.training.test_learner import equal_trees, saved_state


@pytest.fixture
def bucket(free_port, tmp_path):
    """Environment of a process that finds the empty bucket `lab`, and the bucket as a file system."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    program = [str(Path(sys.executable).with_name("gcp-storage-emulator")), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    emulator = subprocess.Popen([*program, "--default-bucket=lab"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    files = GCSFileSystem(endpoint_url=endpoint, token="anon", project="test", skip_instance_cache=True, use_listings_cache=False)
    for _ in range(100):
        try:
            files.ls("lab")
            break
        except (OSError, RuntimeError):
            time.sleep(0.1)
    yield {**os.environ, "STORAGE_EMULATOR_HOST": endpoint, "TENSORSTORE_GCS_HTTP_URL": endpoint}, files
    emulator.terminate()
    emulator.wait(timeout=10)


def test_a_run_in_a_bucket_killed_and_continued_ends_as_on_disk(bucket, trained, tmp_path):
    environment, files = bucket
    files.put(trained.data.path, "lab/data/tiny", recursive=True)
    command = [sys.executable, "-m", "qt_jax", "train", "--config=tests/tiny.py", "--config.data.path=gs://lab/data/tiny",
               "--config.workdir=gs://lab/runs/tiny"]  # fmt: skip
    options = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **options)
    while process.poll() is None and not files.exists("lab/runs/tiny/checkpoints/10/_CHECKPOINT_METADATA"):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = subprocess.run(command, **options, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "resumed from step 10" in result.stdout
    files.get("lab/runs/tiny", str(tmp_path / "run"), recursive=True)
    equal_trees(saved_state(str(tmp_path / "run")), saved_state(trained.workdir))
    records = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(records)) == [5, 10, 15, 20] and any((tmp_path / "run" / "tensorboard").iterdir())


def test_a_store_without_its_library_is_one_line():
    with pytest.raises(UserError, match="gsx://lab/x cannot be opened"):
        storage.directory("gsx://lab/x")
