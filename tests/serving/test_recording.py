"""Recording: new instructions, labels, full disks, killed servers, and who has the folder."""

import dataclasses
import errno
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from qt_jax.errors import UserError
from qt_jax.policy.requests import Refused
from qt_jax.serving import recording
from qt_jax.serving.client import Client
from qt_jax.serving.recording import Label, Recorder
from qt_jax.serving.spool import Spool
from tests.conftest import ROOT
from tests.serving import fake
from tests.serving.fake import act, label


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path / "served.episodes") as spool:
        yield spool


@pytest.fixture
def recorder(spool):
    return Recorder(spool)


@pytest.fixture
def robot(recorder):
    with fake.served(recorder=recorder) as port, Client(f"ws://127.0.0.1:{port}") as client:
        yield client


def recorded(spool) -> list[tuple]:
    return [(e.instruction, e.state[:, 0].tolist(), len(e.actions)) for e in spool.read()]


@pytest.mark.parametrize(
    "prompts, kept, left_out",
    [
        (("close", "close", "open", "open"), [2, 3, 9], 2),
        (("open", "close", "open"), [2, 9], 2),
        (("close", None, "open"), [2, 9], 2),
        (("open", "open"), [0, 1, 9], 0),
    ],
)
def test_another_instruction_cuts_the_episode(robot, recorder, spool, prompts, kept, left_out):
    act(robot, *prompts)
    label(robot)
    assert recorded(spool) == [("open", kept, len(kept) - 1)] and recorder.left_out == left_out


@pytest.mark.parametrize("more", [{"close": True}, {"values": ["open"]}])
def test_a_label_is_not_lost_beside_another_request(robot, spool, more):
    act(robot, "open")
    with pytest.raises(Refused, match="'label'.* are there at once"):
        robot.infer(fake.observation(9, "open", label={"success": True}) | more)
    label(robot)
    assert len(spool.files()) == 1


def test_each_part_may_have_its_label(robot, spool):
    for number, prompt in enumerate(("close", "open")):
        act(robot, prompt, prompt)
        assert label(robot, prompt) == f"{number:06d}"
    assert [instruction for instruction, *_ in recorded(spool)] == ["close", "open"]


def test_a_label_with_another_prompt_is_refused_and_the_episode_stays(robot, recorder, spool):
    act(robot, "open", "open")
    with pytest.raises(Refused, match="prompt 'close', and the episode's instruction is 'open'"):
        label(robot, "close")
    label(robot)
    act(robot, "open")
    robot.infer(fake.observation(0, "open", reset=True))  # the step before has no label
    assert len(recorded(spool)) == 1 and recorder.unlabelled == 1


def test_what_a_person_took_over_is_recorded_as_that_person_s(robot, spool):
    """At the second step and the last; the policy decides (-0.75, -0.75)."""
    robot.infer(fake.observation(0, "open"))
    robot.infer(fake.observation(1, "open"))
    robot.infer(fake.observation(2, "open", intervention=np.float32([[0.5, 2.0]])))
    robot.infer(fake.observation(9, "open", label={"success": True}, intervention=[0.25, 0.0]))
    (episode,) = spool.read()
    np.testing.assert_array_equal(episode.actions, [[-0.75, -0.75], [0.5, 2.0], [0.25, 0.0]])
    assert episode.intervention.tolist() == [False, True, True] and spool.has_interventions()


def test_the_age_of_each_observation_is_recorded(robot, spool):
    """That at which it was decided on: what it waited in the server counts."""
    robot.infer(fake.observation(0, "open"))
    robot.infer(fake.observation(1, "open", age_ms=100))
    assert not spool.has_ages()
    robot.infer(fake.observation(9, "open", label={"success": True}, age_ms=7))
    (episode,) = spool.read()
    assert np.isnan(episode.age_ms[0]) and 100 < episode.age_ms[1] < 5000 and episode.age_ms[2] == 7
    assert spool.has_ages()


@pytest.mark.parametrize(
    "given, words",
    [
        ([0.5], r"Key 'intervention' is int|float64\[1\], expected 2 finite numbers"),
        ([0.5, np.nan], "expected 2 finite numbers"),
        ("left", "'intervention' is a str, expected an array"),
    ],
)
def test_a_takeover_without_its_actions_is_refused_and_the_episode_stays(robot, spool, given, words):
    seen = fake.observation(0, "open")
    with pytest.raises(Refused, match="'intervention' is about the step before, and this session has none"):
        robot.infer(seen | {"intervention": [0.5, 0.5]})
    robot.infer(seen)
    for more in ({}, {"label": {"success": True}}):
        with pytest.raises(Refused, match=words):
            robot.infer(seen | {"intervention": given} | more)
    label(robot)
    assert recorded(spool) == [("open", [0, 9], 1)] and not spool.has_interventions()


@pytest.mark.parametrize("success", [np.bool_(1), np.array(True), np.int64(1), np.array(1), np.float32(1), 1])
def test_a_success_may_be_a_number_of_numpy(robot, spool, success):
    act(robot, "open")
    robot.label(fake.observation(9, "open"), success, np.str_(" mine\n"))
    (episode,) = spool.read()
    assert episode.success is True and episode.task == "mine"


@pytest.mark.parametrize(
    "value, words",
    [
        ({"success": True, "sucess": 1}, "unknown key 'sucess'"),
        ({"task": "x"}, "'success' of 'label' is 'None'"),
        ({"success": 0.5}, "'success' of 'label' is '0.5'"),
        ({"success": np.array([True])}, r"'success' of 'label' is '\[ True\]'"),
        ({"success": float("nan")}, "'success' of 'label' is 'nan'"),
        ({"success": "yes"}, "'success' of 'label' is 'yes'"),
        ({"success": True, "task": 5}, "'task' of 'label' is '5'"),
        (np.bool_(True), "'label' is 'True'"),
        (None, "'label' is 'None'"),
    ],
)
def test_what_is_no_label_is_named(value, words):
    with pytest.raises(Refused, match=words):
        Label.read(value)


def test_other_options_may_be_of_numpy_too(robot):
    act(robot, "open", reset=np.array(True), request_id=np.int64(3))
    assert robot.infer({"close": np.bool_(True)}) == {"closed": True}
    with pytest.raises(Refused, match="'close' is 'now'"):
        robot.infer({"close": "now"})


@pytest.fixture
def disk(monkeypatch):
    """A function that makes the next writes raise an error in the middle of the file, or succeed."""
    fails, save = [], np.savez_compressed

    def saved(file, **arrays):
        if fails:
            file.write(b"some of it")
            raise fails[-1]
        save(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", saved)
    return lambda *error: fails.__setitem__(slice(None), error)


def test_what_a_full_disk_does_not_take_is_kept_and_tried_again(robot, recorder, spool, disk):
    disk(OSError(errno.ENOSPC, "No space left on device"))
    for prompt in ("first", "second"):
        act(robot, prompt)
        with pytest.raises(Refused, match="No space left on device.; free space.*kept in memory") as refused:
            label(robot, prompt)
        assert refused.value.code == "not_written"
    assert list(spool.folder.iterdir()) == [spool.folder / "lock"]  # no half of a file
    disk()
    act(robot, "third")
    label(robot, "third")
    assert [instruction for instruction, *_ in recorded(spool)] == ["first", "second", "third"]
    assert recorder.lost == 0


def test_what_neither_disk_nor_memory_takes_is_counted(robot, recorder, spool, disk, monkeypatch):
    disk(OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(recording, "KEPT_BYTES", 50_000)  # room for two of three episodes
    for words in ("kept in memory", "kept in memory", "The episode is lost"):
        act(robot, "open")
        with pytest.raises(Refused, match=words):
            label(robot)
    recorder.finish()
    assert recorder.lost == 3 and not spool.files()


def test_a_folder_that_was_deleted_meanwhile_loses_no_later_episode(robot, spool):
    act(robot, "open")
    label(robot)
    shutil.rmtree(spool.folder)
    act(robot, "close")
    label(robot, "close")
    assert [instruction for instruction, *_ in recorded(spool)] == ["close"]


def test_a_folder_has_one_server(spool, tmp_path):
    with pytest.raises(UserError, match=r"another server's \(process \d+ on .*give this one another"):
        Spool(tmp_path / "served.episodes")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="is another server's"):
        Spool(tmp_path / "link" / "served.episodes")
    Spool(tmp_path / "other.episodes").__exit__()
    assert not (tmp_path / "other.episodes").exists()  # nothing was recorded


KILLED = """
import os, signal, sys
from pathlib import Path
from qt_jax.serving.spool import Spool
spool = Spool(Path(sys.argv[1]))
(spool.folder / "000007.partial").write_bytes(b"half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_server_blocks_nobody_and_is_named(tmp_path):
    folder = tmp_path / "served.episodes"
    killed = subprocess.run([sys.executable, "-c", KILLED, folder], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    with Spool(folder) as spool:
        assert spool.before.startswith("process ") and spool.halves == 1
        assert not list(folder.glob("*.partial"))


def test_a_damaged_recording_is_named(spool):
    (spool.folder / "000001.npz").write_bytes(b"PK nothing")
    for read in (lambda: list(spool.read()), lambda: spool.check(fake.SPEC)):
        with pytest.raises(UserError, match="000001.npz cannot be read"):
            read()


def test_what_another_robots_server_left_is_refused_before_one_serves(robot, spool):
    act(robot, "open")
    label(robot)
    spool.check(fake.SPEC)
    own = fake.SPEC.interface
    wide = dataclasses.replace(own, observation=dataclasses.replace(own.observation, image_size=(64, 96)))
    with pytest.raises(
        UserError, match=r"front \[64, 64, 3\], shadow \[2\], state \[3\], this one .*front \[64, 96, 3\]"
    ):
        spool.check(dataclasses.replace(fake.SPEC, interface=wide))
