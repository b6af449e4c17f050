"""The extra `beam`, in the venv that `make .beam/.installed` builds: Beam writes the same datasets."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.curation import recordings
from tests.curation.test_convert import read

PYTHON = ROOT / ".beam/bin/python"
TWO_WORKERS = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
pytestmark = pytest.mark.slow


def run(python, *arguments, check=True):
    assert PYTHON.exists(), "run `make .beam/.installed` first, as `make test-slow` does"
    result = subprocess.run(
        [str(python), "-m", "qt_jax", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree.tolist() if hasattr(tree, "tolist") else tree}
    return {
        name: value for key, item in tree.items() for name, value in flat(item, f"{prefix}/{key}").items()
    }


def assert_same(one, other):
    (episodes, metadata), (others, other_metadata) = read(one), read(other)
    assert metadata == other_metadata and "action" in metadata
    assert list(map(flat, episodes)) == list(map(flat, others)) and len(episodes) > 1


@pytest.mark.parametrize("cameras, options", [((), ("--runner=DirectRunner",)), (("front",), TWO_WORKERS)])
def test_collect(tmp_path, cameras, options):
    """With images the workers render: TensorFlow is in their process, and the renderer must not be."""
    settings = ["collect", "--config=tests/cli/beam_collection.py", f"--config.env.cameras={cameras}"]
    run(sys.executable, *settings, f"--config.data.path={tmp_path}/here")
    settings += ["--config.collect.runner=beam", f"--config.collect.beam_options={options}"]
    run(PYTHON, *settings, f"--config.data.path={tmp_path}/beam")
    assert_same(tmp_path / "here", tmp_path / "beam")


@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda root: recordings.lerobot(root, version="v3.0", kind="video"), "lerobot"),
        (recordings.robomimic, "hdf5"),
    ],
)
def test_convert(tmp_path, make, kind):
    settings = ["convert", f"--input={make(tmp_path / 'recorded')}", f"--format={kind}"]
    run(sys.executable, *settings, f"--output={tmp_path}/here")
    settings += ["--runner=beam", "--beam_options=--runner=DirectRunner"]
    run(PYTHON, *settings, f"--output={tmp_path}/beam")
    assert_same(tmp_path / "here", tmp_path / "beam")


@pytest.mark.parametrize("options", [TWO_WORKERS[:1], TWO_WORKERS])
def test_a_workers_error_is_one_line_and_leaves_no_dataset(tmp_path, options):
    folder = recordings.lerobot(tmp_path / "recorded")
    broken = folder / "data/chunk-000/episode_000001.parquet"

    def spoil(episode, step, image):
        return {**image, "bytes": b"none"} if (episode, step) == (1, 2) else image

    recordings.edit_rows(folder, "observation.images.front", spoil)  # what only a worker looks at
    flags = ["--format=lerobot", "--runner=beam", *(f"--beam_options={option}" for option in options)]
    result = run(PYTHON, "convert", f"--input={folder}", f"--output={tmp_path}/beam", *flags, check=False)
    assert result.returncode == 2, result.stderr[-3000:]
    expected = f"qt_jax convert: {broken}: episode 1, step 2, camera 'front'"
    assert result.stderr.splitlines()[-1].startswith(expected)
    assert not (tmp_path / "beam/1.0.0").exists()
