"""What the writer stores about a dataset, and refuses before it starts."""

import json
from pathlib import Path

import numpy as np
import pytest

from qt_jax.curation import rlds_writer
from qt_jax.curation.convert import recording
from qt_jax.data.recorded import RecordedEpisode
from qt_jax.envs import metaworld
from qt_jax.errors import UserError
from tests import tiny


def test_a_collected_dataset_says_what_its_actions_are(dataset_path):
    metadata = json.loads((Path(dataset_path) / rlds_writer.VERSION / "metadata.json").read_text())
    action = metaworld.action_spec(tiny.get_config().env)
    assert metadata["action"] == {name: list(getattr(action, name)) for name in ("names", "low", "high")}


def test_unknown_runner_and_file_format(tmp_path):
    with pytest.raises(UserError, match="runner is 'spark'; expected one of"):
        rlds_writer.check_runner("spark")
    with pytest.raises(UserError, match="file_format is 'riegeli'; expected one of"):
        rlds_writer.write(
            str(tmp_path), [], action=None, observation=None, description="", file_format="riegeli"
        )


def test_beam_without_beam_names_the_extra():
    with pytest.raises(UserError, match=r"pip install 'qt_jax\[data,beam\]'"):
        rlds_writer.check_runner("beam")


@pytest.mark.parametrize("sizes, seen", [([100] * 20, 20), ([300] * 20, 16), ([100] * 19 + [9_000], 20)])
def test_a_record_that_is_too_large_is_refused_before_it_is_made(monkeypatch, sizes, seen):
    """Expected from sixteen frames on; certain at the latest when the frames are too large."""
    monkeypatch.setattr(rlds_writer, "MAX_RECORD", 5_000)
    read = []
    frames = recording.Frames(20, lambda count: (read.append(size) or bytes(size) for size in sizes[:count]))
    made = recording.Recording(
        "e.hdf5: /", "go", {"front": frames}, np.zeros((20, 1)), np.zeros((20, 1)), False, None, 0.1
    )
    if sum(sizes) > 5_000:
        with pytest.raises(
            UserError, match="e.hdf5: / comes to .* GiB, expected at most .* GiB, .*--image_size"
        ):
            recording.finish(made, 0, "demonstration")
    else:
        recording.finish(made, 0, "demonstration")
    assert len(read) == seen


@pytest.fixture
def episode() -> RecordedEpisode:
    return RecordedEpisode(
        task="open",
        collector="demonstration",
        index=3,
        instruction="open",
        images={"front": [bytes(3_000)] * 2},
        state=np.zeros((2, 1)),
        actions=np.zeros((1, 1)),
        rewards=np.zeros(1),
        success=False,
        dt=0.1,
    )


def test_an_episode_says_who_acted_or_it_is_not_written_where_others_say_it(episode):
    with pytest.raises(UserError, match="open/demonstration/000003 does not say at which steps a person"):
        rlds_writer._example(episode, intervention=True)


def test_a_collected_record_that_is_too_large_is_refused(episode, monkeypatch):
    monkeypatch.setattr(rlds_writer, "MAX_RECORD", 5_000)
    with pytest.raises(UserError, match="Episode open/demonstration/000003 comes to"):
        rlds_writer._example(episode)
