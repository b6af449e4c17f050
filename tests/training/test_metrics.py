"""The files of a run's directory: what they cost, what a crash leaves of them, and clocks."""

import errno
import json
import os

import pytest

from qt_jax import storage
from qt_jax.errors import UserError
from qt_jax.training import metrics, provenance
from qt_jax.training.metrics import Meter, MetricWriter
from tests import tiny


def test_a_full_disk_under_tensorboard_is_one_line_and_no_wait(tmp_path):
    """Its own thread would die, and the eleventh write would wait for ever."""
    writer = MetricWriter(str(tmp_path), 0, None)
    full = open("/dev/full", "wb")
    writer._board._file._py_recordio_writer._writer = full
    with pytest.raises(UserError, match="tensorboard cannot be written: the storage is full"):
        for step in range(50):
            writer.write(step, {"train/loss": 1.0})
    with pytest.raises(OSError):
        full.close()


def steps_in(folder) -> list[int]:
    return [record["step"] for record in storage.json_lines(storage.directory(str(folder)) / "metrics.jsonl")]


def test_a_log_writes_its_own_line_and_leaves_the_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "time": 0.0}) + "\n" for step in range(1, 9)))
    writer = MetricWriter(str(tmp_path), 6, None)
    inode, size = path.stat().st_ino, path.stat().st_size
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6], "what lies after the resumed step is written again"
    writer.write(7, {"loss": 1.0})
    assert path.stat().st_ino == inode and size < path.stat().st_size < size + 100
    writer.close()
    assert steps_in(tmp_path) == [1, 2, 3, 4, 5, 6, 7]


def test_a_bucket_has_the_file_written_anew_where_a_checkpoint_needs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "can_append", lambda path: False)
    writer = MetricWriter(str(tmp_path), 0, None)
    for step in range(1, 4):
        writer.write(step, {"loss": 1.0})
    assert steps_in(tmp_path) == []
    writer.flush()
    assert steps_in(tmp_path) == [1, 2, 3]
    monkeypatch.setattr(metrics, "_REWRITE_S", -1.0)
    writer.write(4, {"loss": 1.0})
    assert steps_in(tmp_path) == [1, 2, 3, 4], "a minute later"
    writer.close()


@pytest.mark.parametrize("torn", [b"", b'{"step": 9, "ti', b"\0\0\0", b"[1]\n", b"\n"])
def test_what_a_crash_left_of_the_metrics_does_no_harm(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "time": 0.0}\n' + torn)
    assert steps_in(tmp_path) == [1]
    writer = MetricWriter(str(tmp_path), 5, None)
    writer.write(6, {"loss": 1.0})
    writer.close()
    assert steps_in(tmp_path) == [1, 6]
    assert all(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))


def test_a_line_after_a_torn_one_is_whole(tmp_path):
    path = storage.directory(str(tmp_path)) / "starts.jsonl"
    path.write_text('{"time": 1')
    storage.append_line(path, '{"time": 2}')
    assert storage.json_lines(path) == [{"time": 2}]


@pytest.mark.parametrize("stamp", ["", "nan", "soon", "\0"])
def test_a_stamp_that_a_full_disk_left_empty_is_made_again(tmp_path, stamp):
    (tmp_path / "first_start").write_text(stamp)
    (tmp_path / "starts.jsonl").write_text('{"time": 100.0}\n{"time": 200.0}\n{"ti')
    assert metrics.first_start(str(tmp_path)) == metrics.first_start(str(tmp_path)) == 100.0


def test_the_first_start_stays(tmp_path):
    born = metrics.first_start(str(tmp_path / "run"))
    assert metrics.first_start(str(tmp_path / "run")) == born
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["first_start"]


def test_a_clock_that_was_put_back_does_no_harm(monkeypatch):
    meter = Meter(born=1e12, productive_s=5.0, flops=1.0, peak=1.0)
    with meter.step():
        pass
    assert meter.read(1)["goodput"] == 1.0


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_for_every_file_of_a_run(tmp_path, monkeypatch):
    writer = MetricWriter(str(tmp_path), 0, None)
    monkeypatch.setattr(storage, "replace_bytes", full)
    monkeypatch.setattr(storage, "open", full, raising=False)
    for write in (
        lambda: writer.write(1, {"loss": 1.0}),
        lambda: metrics.first_start(str(tmp_path)),
        lambda: provenance.record(config_of(str(tmp_path))),
    ):
        with pytest.raises(UserError, match="cannot be written: the storage is full .*free space there"):
            write()


def config_of(workdir: str):
    config = tiny.get_config()
    config.workdir = workdir
    return config


def test_metrics_of_a_deleted_directory_are_one_line(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    writer = MetricWriter(str(run), 0, None)
    os.rename(run, tmp_path / "moved")
    with pytest.raises(UserError, match="metrics.jsonl cannot be written: its directory is gone"):
        writer.write(1, {"loss": 1.0})


def test_a_start_records_what_is_other_than_before(tmp_path):
    provenance.record(config_of(str(tmp_path)), {"config.train.steps": (20, 40)})
    (start,) = storage.json_lines(storage.directory(str(tmp_path)) / "starts.jsonl")
    assert start["other_settings"] == {"config.train.steps": [20, 40]}
