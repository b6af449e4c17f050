"""`serve --record`: what an earlier server left, what is recorded, and what is written."""

import re

import numpy as np
import pytest

from qt_jax.cli import record
from qt_jax.curation import rlds_writer
from qt_jax.errors import UserError
from qt_jax.serving.client import Client
from qt_jax.serving.recording import Recorder
from qt_jax.specs import PolicySpec
from tests.serving import fake
from tests.serving.fake import act, label


class Written(list):
    path: str
    about: dict


@pytest.fixture
def written(monkeypatch):
    """What `rlds_writer.write` was given, and did not write."""
    written = Written()

    def write(path, episodes, **about):
        written.extend(episodes)
        written.path, written.about = path, about
        return path

    monkeypatch.setattr(rlds_writer, "write", write)
    return written


def record_one(recorder: Recorder, spec: PolicySpec = fake.SPEC) -> None:
    with fake.served(recorder=recorder, spec=spec) as port, Client(f"ws://127.0.0.1:{port}") as robot:
        act(robot, "close", "open", "open")
        label(robot, "open", task="mine")
        act(robot, "open")


def test_a_recording_from_its_beginning_to_the_dataset(tmp_path, written, capsys):
    path = tmp_path / "served"
    (path / "incomplete.ABC_1.0.0").mkdir(parents=True)
    with record.claim(str(path)) as spool:
        assert not list(path.iterdir()) and capsys.readouterr().out == ""
        recorder = Recorder(spool)
        record_one(recorder)
        record.write(spool, recorder, str(path), fake.SPEC, "")
    (episode,) = written
    assert (episode.task, episode.instruction, len(episode.actions)) == ("mine", "open", 2)
    assert episode.success and episode.collector == "policy" and not written.about["intervention"]
    said = capsys.readouterr().out
    assert "served: 1 episodes" in said and "left out: 1 episodes without a label, 1 steps before" in said
    assert [file.name for file in tmp_path.iterdir()] == ["served"]


def test_a_dataset_says_who_acted_where_a_person_took_over(tmp_path, written):
    with record.claim(str(tmp_path / "served")) as spool:
        recorder = Recorder(spool)
        record_one(recorder)
        with fake.served(recorder=recorder) as port, Client(f"ws://127.0.0.1:{port}") as robot:
            act(robot, "open")
            robot.infer(fake.observation(1, "open", intervention=[0.5, 0.5]))
            label(robot)
        record.write(spool, recorder, str(tmp_path / "served"), fake.SPEC, "")
    assert written.about["intervention"] and "age_ms" not in written.about["extras"]
    assert [episode.collector for episode in written] == ["policy", "intervention"]
    assert [episode.intervention.tolist() for episode in written] == [[False, False], [True, False]]
    np.testing.assert_array_equal(written[1].actions, [[0.5, 0.5], [-0.75, -0.75]])


def test_a_dataset_says_how_old_observations_were_where_a_robot_told_it(tmp_path, written):
    with record.claim(str(tmp_path / "served")) as spool:
        recorder = Recorder(spool)
        with fake.served(recorder=recorder) as port, Client(f"ws://127.0.0.1:{port}") as robot:
            act(robot, "open", "open", age_ms=40)
            label(robot)
        record.write(spool, recorder, str(tmp_path / "served"), fake.SPEC, "")
    (episode,) = written
    assert "age_ms" in written.about["extras"]
    assert np.isnan(episode.age_ms).tolist() == [False, False, True]


def test_of_a_chunk_the_step_is_a_decision_with_what_was_executed_of_it(tmp_path, written):
    spec = fake.with_chunks(chunk=3, execute=2)
    with record.claim(str(tmp_path / "served")) as spool:
        recorder = Recorder(spool)
        record_one(recorder, spec)
        spool.check(spec)
        record.write(spool, recorder, str(tmp_path / "served"), spec, "")
    (episode,) = written
    np.testing.assert_array_equal(episode.actions, [[-0.75, -0.75, -0.25, -0.25]] * 2)
    assert written.about["action"].names == ("x", "y", "x+1", "y+1") and episode.dt == 2 * spec.dt


def test_what_an_earlier_server_left_is_told_and_written(tmp_path, written, monkeypatch, capsys):
    path = str(tmp_path / "served")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    words = "No space left.*1 labelled episodes are kept in"
    with monkeypatch.context() as patched, pytest.raises(UserError, match=words):
        patched.setattr(rlds_writer, "write", full)
        with record.claim(path) as spool:
            recorder = Recorder(spool)
            record_one(recorder)
            record.write(spool, recorder, path, fake.SPEC, "")
    capsys.readouterr()
    with record.claim(path) as spool:
        said = capsys.readouterr().out
        assert "a server before this one (process " in said
        assert "Its 1 labelled episodes are written when this one ends" in said
        record.write(spool, Recorder(spool), path, fake.SPEC, "")
    assert len(written) == 1


def test_a_lost_episode_is_said_at_the_end_and_is_no_success(tmp_path, written, capsys):
    lost = pytest.raises(UserError, match="1 labelled episodes are lost")
    with record.claim(str(tmp_path / "served")) as spool, lost:
        recorder = Recorder(spool)
        recorder.lost = 1
        record.write(spool, recorder, "served", fake.SPEC, "")
    assert "no episode was labelled" not in capsys.readouterr().out and not written


FAILURES = [
    (OSError(28, "No space left on device"), "No space left", "or raise the quota, serve with this"),
    (TypeError("no such\nthing"), r"\(TypeError: no such\)", "served.episodes: serve with this"),
    (UserError("It is broken; mend it."), r"\(It is broken; mend it.\)", "served.episodes: serve with this"),
]


@pytest.mark.parametrize("error, why, remedy", FAILURES)
def test_a_dataset_that_is_not_written_says_why_and_what_helps(error, why, remedy, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(rlds_writer, "write", fails)
    with record.claim(str(tmp_path / "served")) as spool, pytest.raises(UserError) as refused:
        recorder = Recorder(spool)
        record_one(recorder)
        record.write(spool, recorder, str(tmp_path / "served"), fake.SPEC, "")
    said = str(refused.value)
    assert re.search(why, said) and remedy in said and "\n" not in said and said.count("mend it") < 2


def test_a_home_s_path_is_below_the_home(tmp_path, written, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with record.claim("~/served") as spool:
        assert spool.folder == tmp_path / "served.episodes"
        recorder = Recorder(spool)
        record_one(recorder)
        record.write(spool, recorder, "~/served", fake.SPEC, "")
    assert written.path == str(tmp_path / "served")


@pytest.mark.parametrize("name", ["gs://bucket/x", "/", "file"])
def test_where_no_dataset_can_be_is_said_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"--record={name} is no folder of this machine"):
        record.claim(name)


def test_a_dataset_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "served" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a dataset already"):
        record.claim(str(tmp_path / "served"))
    assert [file.name for file in tmp_path.iterdir()] == ["served"]
    (tmp_path / "served.episodes").mkdir()
    (tmp_path / "served.episodes" / "000000.npz").touch()
    with pytest.raises(UserError, match="served.episodes has 1 labelled episodes too: if"):
        record.claim(str(tmp_path / "served"))
    (tmp_path / "served.episodes").rename(tmp_path / "new.episodes")  # as it says
    with record.claim(str(tmp_path / "new")) as spool:
        assert len(spool.files()) == 1
