"""What a learning benchmark makes before it measures."""

from benchmarks import runs
from experiments import metaworld_benchmark


def test_the_clone_that_acts_is_trained_before_the_data_are_collected(monkeypatch, tmp_path):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "command", lambda *command: asked.append(command))
    runs.train("file.py", "awac,i,3", metaworld_benchmark.get_config("awac,i,3"))
    clone, own = "file.py:clone,i,3", "file.py:awac,i,3"
    assert asked == [("collect", clone), ("train", clone), ("collect", own), ("train", own)]
    asked.clear()
    config = metaworld_benchmark.get_config("awac,b,3")
    (tmp_path / config.data.path / "1.0.0").mkdir(parents=True)
    runs.train("file.py", "awac,b,3", config)
    assert asked == [("train", "file.py:awac,b,3")]
