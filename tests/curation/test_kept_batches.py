"""A collection that ended early goes on. The suite is a user's own, which needs no simulator."""

import concurrent.futures
import dataclasses
import pickle
import signal

import numpy as np
import pytest
from etils import epath

from examples import my_suite
from qt_jax.curation import collect, rlds_writer
from qt_jax.curation.kept_batches import KeptBatches
from qt_jax.envs import collectors


@pytest.fixture
def written(monkeypatch):
    """The episodes that reach the writer; it fails after `limit` of them, if that is set."""
    found = {"episodes": [], "limit": None}

    def write(path, episodes, **about):
        found["episodes"] = []
        for episode in episodes:
            found["episodes"].append(episode)
            if len(found["episodes"]) == found["limit"]:
                raise OSError("the machine went down")
        return epath.Path(path) / "1.0.0"

    monkeypatch.setattr(rlds_writer, "write", write)
    threads = concurrent.futures.ThreadPoolExecutor  # processes start slowly
    monkeypatch.setattr(collect, "ProcessPoolExecutor", lambda workers, *of_processes: threads(workers))
    handler = signal.getsignal(signal.SIGINT)
    yield found
    signal.signal(signal.SIGINT, handler)


def settings(folder, **own):
    config = my_suite.get_config()
    config.collect.demonstrations, config.collect.autonomous = 20, 0
    config.collect.workers, config.data.path = 1, str(folder)
    config.collect.update(own)
    return config


def test_a_collection_goes_on_where_it_ended(tmp_path, written, capsys):
    written["limit"] = 1
    for seed in (1, 0):
        with pytest.raises(OSError):
            collect.collect(settings(tmp_path, seed=seed))
    out = capsys.readouterr().out
    assert "holds what was collected with other settings; it is not used" in out and "goes on" not in out
    (folder,) = (f for f in tmp_path.glob("collecting/*") if str(f) not in out)
    files = sorted(folder.iterdir())
    assert 1 <= len(files) <= 4  # of 4 batches of 10 episodes
    first = pickle.loads(files[0].read_bytes())
    files[0].write_bytes(pickle.dumps([dataclasses.replace(e, instruction="kept") for e in first]))
    for file in files[1:]:
        file.unlink()

    written["limit"] = None
    config = settings(tmp_path, workers=2, file_format="tfrecord")
    found, again = collect.collect(config), written["episodes"]
    assert f"goes on after 1 of 4 batches in {folder}" in capsys.readouterr().out
    assert found.planned == found.episodes.total() == len(again) == 40
    assert [episode.instruction == "kept" for episode in again] == [True] * 10 + [False] * 30
    assert not (tmp_path / "collecting").exists()

    batches = collectors.plan_episodes(config.collect, my_suite.TASKS)
    whole = [episode for batch in batches for episode in collectors.collect_episodes(config, batch)]
    for one, other in zip(again, whole, strict=True):
        assert one.episode_id == other.episode_id
        np.testing.assert_array_equal(one.state, other.state)


def test_what_another_checkpoint_of_the_policy_did_is_not_gone_on_with(tmp_path):
    checkpoint = tmp_path / "run/checkpoints/10"
    checkpoint.mkdir(parents=True)
    config = settings(tmp_path / "x", policy=str(tmp_path / "run"))
    before, same = KeptBatches(config).folder, KeptBatches(config).folder
    (tmp_path / "run/checkpoints/20").mkdir()
    assert before == same != KeptBatches(config).folder
