"""Data and run in a bucket, by the real commands, against an emulator of Google's storage."""

import json
import os
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import pytest
from gcp_storage_emulator.exceptions import NotFound
from gcsfs.core import (
    GCSFileSystem,
)  # the other one asks for the kind of bucket, which the emulator does not know

from qt_jax import storage
from qt_jax.errors import UserError
from tests.conftest import ROOT
from tests.training.test_learner import equal_trees, saved_state

GCSFS_BOUNDARY = b"--==0=="


@pytest.fixture
def bucket(free_port, monkeypatch):
    """Environment of a process that finds the empty bucket `lab`, and the bucket as a file system."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with _emulator(monkeypatch, port):
        files = GCSFileSystem(
            endpoint_url=endpoint,
            token="anon",
            project="test",
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        plain = {
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"
        }  # else gcsfs asks Google by gRPC what kind of bucket this is
        yield (
            {**os.environ, **plain, "STORAGE_EMULATOR_HOST": endpoint, "TENSORSTORE_GCS_HTTP_URL": endpoint},
            files,
        )


def _emulator(monkeypatch, port):
    """The emulator of PyPI, with two of its faults mended.

    It forgets a header that Google's storage sends and tensorstore needs. Of a file that gcsfs sends, it
    takes a last byte 13 for the end of the line before the boundary, which cuts one file of 256 short.
    """
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    def download(request, response, storage, *args, original=objects.download, **kwargs):
        try:
            described = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = described["generation"]
        except NotFound:
            pass
        original(request, response, storage, *args, **kwargs)

    def read_raw(handler, original=server._read_raw_data):
        handler.raw = original(handler)
        return handler.raw

    def read(handler, query, original=server._read_data):
        found = original(handler, query)
        if isinstance(found, dict) and "content-type" in found and handler.raw.startswith(GCSFS_BOUNDARY):
            _, file, _ = handler.raw.split(b"\n" + GCSFS_BOUNDARY)
            found["content"] = file.partition(b"\n\n")[2]
        return found

    monkeypatch.setattr(server, "_read_raw_data", read_raw)
    monkeypatch.setattr(server, "_read_data", read)
    monkeypatch.setattr(objects, "download", download)
    monkeypatch.setattr(
        "http.server.HTTPServer.request_queue_size", 128
    )  # its 5 refuse a client that asks for many files at once
    return server.create_server("127.0.0.1", port, in_memory=True, default_bucket="lab")


@pytest.mark.slow
def test_a_run_in_a_bucket_killed_and_continued_ends_as_on_disk(bucket, trained, tmp_path):
    environment, files = bucket
    files.put(trained.data.path, "lab/data/tiny", recursive=True)
    command = [sys.executable, "-m", "qt_jax", "train", "--config=tests/tiny.py", "--config.data.path=gs://lab/data/tiny",
               "--config.workdir=gs://lab/runs/tiny"]  # fmt: skip
    options = {
        "cwd": ROOT,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process = subprocess.Popen(command, **options)
    while process.poll() is None and not files.exists("lab/runs/tiny/checkpoints/10/commit_success.txt"):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, f"it ended before its first save: {errors[-3000:]}"
    result = subprocess.run(command, **options, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "resumed from step 10" in result.stdout
    files.get("lab/runs/tiny", str(tmp_path / "run"), recursive=True)
    equal_trees(saved_state(str(tmp_path / "run")), saved_state(trained.workdir))
    records = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sorted(set(records)) == [5, 10, 15, 20] and any((tmp_path / "run" / "tensorboard").iterdir())


def test_tfrecord_in_a_bucket_is_read_record_by_record(bucket, synthetic_root):
    """Without a copy: the batches are those of the disk."""
    environment, files = bucket
    files.put(f"{synthetic_root}/numbers_tfrecord", "lab/data/numbers_tfrecord", recursive=True)
    script = (
        "import sys, hashlib; from tests.data.recipes import make_recipe, make_iterator, take;"
        "batches = take(make_iterator(make_recipe(sys.argv[1])), 12);"
        "content = [batch.state.tobytes() + batch.tokens.tobytes() for batch in batches];"
        "print(hashlib.sha256(b''.join(content)).hexdigest())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", script, root],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        for root in ("gs://lab/data", synthetic_root)
    ]
    assert found[0].returncode == 0, found[0].stderr[-3000:]
    assert found[0].stdout == found[1].stdout


@pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\r\n"])
def test_the_emulator_keeps_every_byte_of_a_file(bucket, tmp_path, end):
    _, files = bucket
    (tmp_path / "file").write_bytes(b"\x00record\xff" + end)
    files.put(str(tmp_path / "file"), "lab/file")
    assert files.cat("lab/file") == (tmp_path / "file").read_bytes()


def test_stores_that_cannot_be_used_are_one_line(monkeypatch):
    for url in ("gsx://lab/x", "memory://lab", "file:///lab/x", "gs://", "s3:///lab"):
        with pytest.raises(
            UserError, match=f"{url} is of no store that is known; expected a folder's path, "
        ):
            storage.directory(url)
    with pytest.raises(
        UserError, match="s3://lab/run cannot be used here: datasets are read from s3://, but"
    ):
        storage.writable("s3://lab/run")
    monkeypatch.setattr(storage.fsspec, "get_filesystem_class", Mock(side_effect=ImportError("no gcsfs")))
    for url, package in (("gs://lab/x", "'qt_jax.cloud.'"), ("s3://lab/x", "s3fs")):
        with pytest.raises(
            UserError, match=f"{url} cannot be opened .no gcsfs.; run `pip install {package}`"
        ):
            storage.directory(url)
