"""What a learning benchmark makes before it measures."""

from benchmarks import runs
from experiments import metaworld_benchmark

FILE = "experiments/metaworld_benchmark.py"


def test_the_clone_that_acts_is_trained_before_the_data_are_collected(monkeypatch, tmp_path):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "command", lambda *command: asked.append(command))
    config, acting = (metaworld_benchmark.get_config(f"{name},i,3") for name in ("awac", "clone"))
    runs.train(FILE, "awac,i,3", config)
    clone, own = f"{FILE}:clone,i,3", f"{FILE}:awac,i,3"
    assert asked == [("collect", clone), ("train", clone), ("collect", own), ("train", own)]
    asked.clear()
    (tmp_path / acting.data.path / "1.0.0").mkdir(parents=True)  # its demonstrations, without the clone
    runs.train(FILE, "awac,i,3", config)
    assert asked == [("train", clone), ("collect", own), ("train", own)]
    asked.clear()
    config = metaworld_benchmark.get_config("awac,b,3")
    (tmp_path / config.data.path / "1.0.0").mkdir(parents=True)
    runs.train(FILE, "awac,b,3", config)
    assert asked == [("train", f"{FILE}:awac,b,3")]
