"""What `inspect` reports of data whose numbers are known, what it shows, and a page of simulated episodes."""

import base64
import collections
import dataclasses
import io
import os
import re
import subprocess
import sys

import av
import numpy as np
import pytest
from etils import epath
from PIL import Image

from qt_jax.curation import (
    dataset_page,
    dataset_plots,
    dataset_rerun,
    dataset_summary,
    dataset_videos,
    shown_episodes,
)
from qt_jax.curation.dataset_summary import spark
from qt_jax.data import tables
from qt_jax.data.images import decode
from qt_jax.errors import UserError
from qt_jax.preprocess import resize
from qt_jax.specs import ActionSpec
from qt_jax.training import setup
from tests.conftest import ROOT, run_command
from tests.data.recipes import NUMBERS, frames_recipe, make_recipe
from tests.data.synthetic import LENGTHS
from tests.data.test_specs import make_config


@pytest.fixture(scope="module")
def recipe(synthetic_root):
    """Episodes of lengths 1 to 24 whose action is (t + 0.5) / 25, with bins over 0.08 to 0.52."""
    narrow = dataclasses.replace(NUMBERS, action=ActionSpec(("x",), (0.08,), (0.52,), (11,)))
    return make_recipe(synthetic_root, spec=narrow)


def test_the_numbers(recipe):
    """Computed by hand.

    Of 300 steps t = 0, 1 (24 + 23 episodes) lie below the bounds and t = 13 to 23 (11 + ... + 1) above them;
    each bin has one t.
    """
    found = dataset_summary.summary(recipe, recipe.mixture.sources[0])
    assert (found.episodes, found.steps, found.median) == (24, 300, 12.5)
    assert (found.training, found.validation) == (24, 0)
    assert found.kinds == {"demonstrations": 8, "successes": 8, "failures": 8}
    assert found.success == pytest.approx(2 / 3)
    assert found.tasks == [("even", 12, pytest.approx(2 / 3)), ("odd", 12, pytest.approx(2 / 3))]
    assert found.collectors == [("noise", 16, pytest.approx(1 / 2)), ("demonstration", 8, 1.0)]
    instructions = ("lift the ring", "push the cube", "raise the ring", "shove the cube")
    assert found.instructions == [(instruction, 6) for instruction in instructions]
    assert list(found.dt.values()) == [24] and found.samples == 300
    (x,) = found.actions
    assert x.below == pytest.approx(47 / 300) and x.above == pytest.approx(66 / 300)
    assert x.counts.tolist() == [24 + 23 + 22, *range(21, 12, -1), 12 + 66] and (x.used, x.bins) == (11, 11)
    actions = np.concatenate([(np.arange(length) + 0.5) / 25 for length in range(1, 25)])
    q01, q99 = np.quantile(actions, [0.01, 0.99])
    expected = [actions.mean(), actions.std(), q01, q99, actions.min(), actions.max()]
    np.testing.assert_allclose(x.numbers, expected, rtol=1e-5)
    assert [dim.numbers[4:] for dim in found.state] == [(0.0, 23.0), (0.0, 24.0)]


def test_the_table(recipe):
    lines = dataset_summary.text(dataset_summary.summary(recipe, recipe.mixture.sources[0])).splitlines()
    kinds = "8 successful demonstrations, 8 other successes, 8 failures"
    assert f"  episodes      24: {kinds}; 66.7% successful" in lines
    assert "  lengths       min 1, median 12.5, max 24  |████████████████████████|" in lines
    assert "  dt            0.1 s (10 Hz) in 24 episodes" in lines
    assert "  rewards       0 to 1, mean 0.05333 of a step; 0 to 1, mean 0.6667 of an episode" in lines
    gamma = 0.98 ** (0.1 / 0.0625)
    successes = [length for number, length in enumerate(LENGTHS) if number % 3 < 2]
    mean = sum(gamma**k for length in successes for k in range(length)) / 300
    assert f"  returns       0 to 1, mean {mean:.4g}, discounted by 0.98 a 0.0625 s" in lines
    assert "  demonstration          8     100%" in lines
    assert "  even                  12      67%" in lines and "  lift the ring          6" in lines
    (x,) = [line for line in lines if line.startswith("  x ")]
    assert "0.08, 0.52    15.7%, 22.0%    11 of 11  |" in x
    assert max(map(len, lines)) <= 140


def test_returns_outside_the_value_range_are_shown(synthetic_root):
    """`inspect` opens what `train` refuses."""
    config, path = make_config(synthetic_root, "numbers"), f"{synthetic_root}/numbers_tfrecord"
    config.value_range = (0.0, 0.5)
    entries = tables.resolve(config.data, {"numbers": dataclasses.replace(NUMBERS, path=path)})
    with pytest.raises(UserError, match="Returns lie outside config.value_range="):
        setup.prepare(config, entries)
    _, recipe, _ = setup.prepare(config, entries, any_returns=True)
    found = dataset_summary.summary(recipe, recipe.mixture.sources[0])
    line = "16 episodes have returns outside (0, 0.5); set config.value_range"
    assert f"  value range   {line}" in dataset_summary.text(found).splitlines()
    assert line in dataset_page.render(recipe.mixture.sources[0], found, [], [], (32, 32))


def test_spark_shows_what_is_not_zero():
    assert spark(np.asarray([0, 1, 800])) == " ▁█"
    assert spark(np.repeat([2, 0, 1], 64), 3) == "█ ▄"


def test_shown_episodes_are_spread_over_tasks_and_always_the_same(recipe):
    source = recipe.mixture.sources[0]
    chosen = shown_episodes.choose(source, 2)
    assert chosen == shown_episodes.choose(source, 2)
    assert [kind for kind, _ in chosen] == list(np.repeat(["demonstrations", "successes", "failures"], 2))
    tasks = [source.index.tasks[source.index.columns["task"][number]] for _, number in chosen]
    assert all(set(tasks[i : i + 2]) == {"even", "odd"} for i in (0, 2, 4))
    assert len(shown_episodes.choose(source, 100)) == 24
    for one, (kind, number) in zip(shown_episodes.read(recipe, source, 2), chosen, strict=True):
        assert one.kind == kind and one.episode.success == (kind != "failures")
        assert one.episode.length == source.index.columns["length"][number] == len(one.returns)
    held_out = dataclasses.replace(source, train=source.train[3:])
    assert not {number for _, number in shown_episodes.choose(held_out, 100)} & set(source.train[:3])


def test_sheets_show_the_right_steps_at_the_networks_size(synthetic_root):
    config = make_config(synthetic_root, "fractal_arm")
    _, recipe, _ = setup.prepare(config, tables.resolve(config.data, {}))
    source = recipe.mixture.sources[0]
    shown = max(shown_episodes.read(recipe, source, 3), key=lambda one: one.episode.length)
    sheets = dataset_plots.sheets(shown, (32, 32))
    steps, pictures, _ = zip(*sheets["front"])
    last = shown.episode.length
    assert last >= 12 and len(steps) == 10 and steps[0] == 0 and steps[-1] == last
    for step, picture in zip(steps, pictures):
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))), int)
        expected = resize(decode(shown.episode.images["front"][step]), (32, 32))
        assert seen.shape == (32, 32, 3) and np.abs(seen - expected).mean() < 12, step
    page = dataset_page.render(source, dataset_summary.summary(recipe, source), [shown], [sheets], (32, 32))
    assert page.count("<figure>") == 10 and "front: stored 256 × 320; learned from at 32 × 32" in page


def test_videos_of_the_shown_episodes(synthetic_root, tmp_path):
    """At the robot's speed, with a black frame for one that does not decode."""
    recipe = frames_recipe(synthetic_root)
    shown = shown_episodes.read(recipe, recipe.mixture.sources[0], 12)
    lines = dataset_videos.write(shown, recipe.mixture.sources[0].spec, epath.Path(tmp_path))
    assert len(lines) == 2 and all("1 of 8 frames do not decode and are black" in line for line in lines)
    for one in shown:
        black = {"e2": 3, "e5": 0}.get(one.episode.episode_id)
        with av.open(str(tmp_path / f"{one.kind}_{one.number}_front.mp4")) as container:
            (stream,) = container.streams
            assert stream.average_rate == 10
            seen = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(stream)]
        assert len(seen) == 8
        for step, picture in enumerate(seen):
            if step == black:
                assert picture.max() < 40
            else:
                stored = decode(one.episode.images["front"][step]).mean(axis=-1)
                assert np.corrcoef(picture.ravel(), stored.ravel())[0, 1] > 0.6, step


def test_an_odd_picture_keeps_what_it_shows():
    frame = np.full((5, 7, 3), 200, np.uint8)
    with av.open(io.BytesIO(dataset_videos.mp4([frame] * 3, (5, 7), 12.5))) as container:
        (stream,) = container.streams
        found = [picture.to_ndarray(format="rgb24") for picture in container.decode(stream)]
    assert stream.average_rate == 12.5 and [picture.shape for picture in found] == [(6, 8, 3)] * 3
    assert np.abs(found[0].astype(int) - 200).max() < 6


def test_an_image_that_does_not_decode_is_shown_on_the_page(synthetic_root):
    recipe = frames_recipe(synthetic_root)
    source = recipe.mixture.sources[0]
    shown = shown_episodes.read(recipe, source, 12)
    sheets = [dataset_plots.sheets(one, (16, 16)) for one in shown]
    spoilt = [
        one.episode.episode_id for one, sheet in zip(shown, sheets) if any(p.problem for p in sheet["front"])
    ]
    assert spoilt == ["e5", "e2"]
    summary = dataset_summary.summary(recipe, source)
    page = dataset_page.render(source, summary, shown[:8], sheets[:8], (16, 16))
    assert page.count("does not decode") == page.count("<figure>") - page.count("data:image/jpeg") > 0


def test_the_command(dataset_path, tmp_path):
    result = run_command(
        "inspect", f"--config.data.path={dataset_path}", f"--output={tmp_path}", "--episodes=1"
    )
    assert re.search(r"episodes +16: 8 successful demonstrations, ", result.stdout)
    assert f"page: {tmp_path}/collected.html" in result.stdout
    page = (tmp_path / "collected.html").read_text()
    assert page.count('class="episode"') == len(re.findall(r"<h3>", page)) >= 2 and "http" not in page
    command = [sys.executable, "-m", "qt_jax", "inspect", f"--data={dataset_path}", "--episodes=0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert re.search(r"grip .* of 256 ", result.stdout)
    own = tmp_path / "runs/inspect" / epath.Path(dataset_path).name  # those of other datasets stay
    assert "None is shown" in (own / "collected.html").read_text()


def test_rerun_is_asked_for_and_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(
        UserError, match=r"^--rerun needs the package rerun-sdk; run `pip install 'qt_jax\[rerun\]'`\.$"
    ):
        dataset_rerun.Recording("x.rrd")


@pytest.mark.slow
def test_a_rerun_recording(dataset_path, tmp_path):
    """Rerun's own SDK writes and reads it: each entity has a row for each record or transition."""
    installed = (ROOT / ".rerun/.installed").exists()
    assert installed, "run `make .rerun/.installed` first, as `make test-slow` does"
    options = dict(cwd=ROOT, env=os.environ | {"PYTHONPATH": ".rerun"}, timeout=120, check=True)

    def run(*command):
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, **options)

    file = tmp_path / "episodes.rrd"
    settings = ["--config=tests/tiny.py", f"--config.data.path={dataset_path}"]
    settings += [f"--output={tmp_path}", "--episodes=1", f"--rerun={file}"]
    assert "Warning" not in run("-m", "qt_jax", "inspect", *settings).stderr
    script = (
        "from rerun.chunk import RrdReader\n"
        f"for chunk in RrdReader({str(file)!r}).stream().to_chunks():\n"
        "  if not chunk.is_static: print(chunk.entity_path, chunk.num_rows)\n"
    )
    rows = collections.Counter()
    for line in run("-c", script).stdout.splitlines():
        entity, count = line.rsplit(" ", 1)
        rows[entity] += int(count)
    episodes = {entity.rpartition("/")[0] for entity in rows if entity.startswith("/collected/")}
    assert len(episodes) >= 2
    assert any(entity.startswith("/collected/demonstrations/faucet-") for entity in episodes)
    for entity in episodes:
        length = rows[f"{entity}/action"]
        assert rows[f"{entity}/reward"] == length > 0
        assert rows[f"{entity}/state"] == rows[f"{entity}/front"] == length + 1
