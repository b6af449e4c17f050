"""Rounds of experience: what each keeps and trains on, what its values said before, and how it goes on."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import ml_collections
import numpy as np
import optax
import pytest

from qt_jax.curation import collect
from qt_jax.data import described, mixture
from qt_jax.errors import UserError
from qt_jax.improvement import calibration, mixing, page, rounds, settings
from qt_jax.training import checkpoints
from qt_jax.training.assets import frozen_config
from qt_jax.training.config import default_config
from qt_jax.training.peers import Peers
from qt_jax.training.state import init_state
from tests import improving
from tests.conftest import ROOT, assert_group_ends, run_command

CONFIG = "tests/improving.py"


@pytest.fixture
def recorded(synthetic_root, tmp_path) -> ml_collections.ConfigDict:
    """A config without a simulator, whose rounds a robot records; it began with three episodes of 6 steps."""
    config = default_config("q_transformer")
    config.improve = settings.get_config()
    config.improve.collect, config.improve.rounds, config.improve.steps = settings.RECORDED, 2, 2
    config.workdir = str(tmp_path / "run")
    config.data.path = f"{synthetic_root}/interventions"
    config.data.cache = os.environ["QT_JAX_CACHE"]
    config.data.validation_fraction, config.data.batch_size, config.data.read_threads = 0.0, 4, 1
    config.model.layers, config.model.width, config.model.heads, config.model.window = 1, 16, 2, 1
    config.optimizer.warmup_steps = config.train.steps = 2
    return config


def record(config, number: int) -> Path:
    """Puts the episodes of a round where they are expected."""
    path = Path(config.workdir, "improve", f"round_{number}", "episodes")
    return Path(shutil.copytree(config.data.path, path))


def counts(opt_state) -> dict[str, int]:
    """Returns the steps that the moments and the schedule of an optimiser's state have counted."""
    kinds = optax.ScaleByAdamState, optax.ScaleByScheduleState
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kinds))
    return {type(part).__name__: int(part.count) for part in parts if isinstance(part, kinds)}


def beside_params(config, workdir: str):
    from qt_jax import agents

    saved = checkpoints.load_assets(workdir)
    ensemble = agents.make_ensemble(frozen_config(saved.config), saved.interface)
    like = jax.eval_shape(lambda: init_state(frozen_config(saved.config), ensemble))
    return checkpoints.load_beside_params(workdir, like)


def test_a_robot_s_rounds(recorded, capsys):
    with pytest.raises(
        UserError, match=r"round 1 expects recorded episodes at .*improve/round_1/episodes: exp"
    ):
        rounds.improve(recorded)
    record(recorded, 1)
    before, first = rounds.improve(recorded)
    assert "round 2 expects recorded episodes at" in capsys.readouterr().out
    assert before == {"round": 0, "evaluation": None}
    assert first["collected"]["overall"]["success"] == pytest.approx(1 / 3)
    assert first["collected"]["tasks"]["even"]["episodes"] == 3
    assert (first["collected"]["transitions"], first["collected"]["trained_on"]) == (18, 18)
    assert sum(steps for *_, steps in first["value"]["bins"]) == 18

    run = f"{recorded.workdir}/improve/round_1/run"
    assert checkpoints.latest_step(run) == 2
    start, now = (checkpoints.load_assets(workdir) for workdir in (recorded.workdir, run))
    assert now.datasets == start.datasets, "of one robot, with the bounds and statistics that it began with"
    assert now.data["all"]["episodes"] == 6
    assert counts(beside_params(recorded, run)["opt_state"]) == {
        "ScaleByAdamState": 4,
        "ScaleByScheduleState": 2,
    }

    other = record(recorded, 2) / "1.0.0" / "metadata.json"
    other.write_text(other.read_text().replace('"x"', '"y"'))
    with pytest.raises(
        UserError, match=r"has actions \['y'\], the dataset 'collected' has \['x'\]: it is of ano"
    ):
        rounds.improve(recorded)
    about = json.loads(other.read_text().replace('"y"', '"x"'))
    twice = {"names": ["x", "x+1"]} | {side: 2 * about["action"][side] for side in ("low", "high")}
    other.write_text(json.dumps(about | {"action": twice}))
    with pytest.raises(UserError, match="has decisions of 2 actions each.*config.model.execute=1, which"):
        rounds.improve(recorded)
    other.write_text(json.dumps(about))
    recorded.improve.new_share = 0.25
    with pytest.raises(
        UserError, match="round_2 began with config.improve.new_share=0.5, now it is 0.25; give"
    ):
        rounds.improve(recorded)
    recorded.improve.new_share = 0.5
    recorded.improve.rounds = 1
    assert rounds.improve(recorded) == [before, first]
    assert "raise config.improve.rounds to go on" in capsys.readouterr().out
    table = Path(recorded.workdir, "improve", rounds.TABLE).read_text().splitlines()
    assert [json.loads(line) for line in table] == [before, first]
    assert "Q − return" in Path(recorded.workdir, "improve", page.PAGE).read_text()


def test_what_one_began_with_keeps_its_share(recorded, monkeypatch):
    folders = {f"round_{number}": record(recorded, number) for number in (1, 2, 3)}
    recorded.improve.new_share = 0.4
    real = mixture.look

    def look(data, entry):
        index, transitions = real(data, entry)
        return index, {"round_1": 30, "round_2": 0, "round_3": 10}[entry.name]

    monkeypatch.setattr(mixture, "look", look)
    found = mixing.mixed(recorded, folders)
    weights = {entry.name: (pytest.approx(entry.weight), entry.like) for entry in found.entries}
    assert weights == {"collected": (0.6, ""), "round_1": (0.3, "collected"), "round_3": (0.1, "collected")}
    monkeypatch.setattr(mixture, "look", lambda data, entry: (real(data, entry)[0], 0))
    assert [(entry.name, entry.weight) for entry in mixing.mixed(recorded, folders).entries] == [
        ("collected", 1)
    ]
    opened = mixture.open_mixture(recorded.data, found.entries)
    assert {source.action for source in opened.sources} == {opened.sources[0].action}


def test_values_against_returns():
    """Two steps of a success and two of a failure; the first steps are the first and the third."""
    steps = np.asarray([(0.52, 0.9, 1), (0.58, 1.0, 1), (0.05, 0.0, 0), (0.59, 0.0, 0)])
    found = calibration.summary(steps, steps[[0, 2]], (0.0, 1.0))
    assert found["q"] == {"success": pytest.approx(0.55), "failure": pytest.approx(0.32)}
    assert found["bias"] == {"success": pytest.approx(-0.4), "failure": pytest.approx(0.32)}
    assert found["auc"] == 1.0
    near = pytest.approx
    assert found["bins"] == [[near(0.05), 0.0, 1], [near(1.69 / 3), near(1.9 / 3), 3]]
    failures = calibration.summary(steps[2:], steps[2:3], (0.0, 1.0))
    assert failures["auc"] is None and set(failures["q"]) == {"failure"}


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("improve.rounds", 0, "config.improve.rounds is 0, expected 1 or more"),
        ("improve.new_share", 1.0, "new_share is 1.0, expected a share between 0 and 1"),
        ("improve.collect", "robot", r"collect is 'robot', expected one of \('policy', 'intervention', 'rec"),
        ("improve.target", "keep", r"target is 'keep', expected one of \('kept', 'reset'\)"),
        ("data.limits", ("noise=1",), r"limits is \('noise=1',\), which is of one dataset"),
    ],
)
def test_a_bad_setting_is_one_line(setting, value, message):
    config = improving.get_config()
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(UserError, match=message):
        settings.check(config)


def test_a_config_that_has_no_rounds_is_told_so(recorded):
    recorded.improve.collect = "policy"
    with pytest.raises(
        UserError, match="collect is 'policy' and the config has no env, collect, evaluate; take"
    ):
        settings.check(recorded)
    recorded.improve.collect, recorded.improve.dataset = settings.RECORDED, "kitchen"
    with pytest.raises(
        UserError, match=r"dataset is 'kitchen'; expected whose robot acts, .* \['collected'\]"
    ):
        mixing.mixed(recorded, {})
    with pytest.raises(UserError, match="has no section `improve`; add config.improve"):
        settings.check(default_config())


def test_a_round_that_a_full_disk_stopped_is_not_done(monkeypatch, tmp_path):
    def full(config):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(collect, "collect", full)
    config = improving.get_config()
    config.workdir = str(tmp_path)
    config.data.path = str(tmp_path / "improve/round_1/episodes")
    with pytest.raises(
        UserError, match="round_1/episodes is not written: the storage is full .*free space there"
    ):
        rounds._collected(config)
    assert not rounds.Rounds(config, Peers()).is_done(1)


@pytest.mark.slow
def test_a_robot_s_rounds_by_a_policy_of_chunks(recorded):
    """That decides at each step, as the refusal of others says."""
    recorded.model.chunk, recorded.model.execute, recorded.improve.rounds = 2, 1, 1
    record(recorded, 1)
    _, first = rounds.improve(recorded)
    assert first["collected"]["trained_on"] == 18
    assert sum(steps for *_, steps in first["value"]["bins"]) == 18


@pytest.mark.slow
def test_rounds_from_images(tmp_path):
    """In the simulator: what was rendered is kept as JPEG, trained on, and acted on again."""
    given = [f"--config.data.path={tmp_path / 'data'}", f"--config.workdir={tmp_path / 'run'}"]
    given += ["--config.env.cameras=('front',)", "--config.env.image_size=32", "--config.model.image_size=32"]
    given += ["--config.model.patch_stages=((8,16,1),)", "--config.model.image_tokens=2"]
    run_command("collect", *given, config=CONFIG)
    run_command("improve", *given, config=CONFIG)
    rows = [json.loads(line) for line in (tmp_path / "run/improve" / rounds.TABLE).read_text().splitlines()]
    assert [row["collected"]["overall"]["episodes"] for row in rows[1:]] == [22, 22]
    for number in (1, 2):
        spec = described.spec(str(tmp_path / f"run/improve/round_{number}/episodes"))
        assert spec.observation.cameras == ("front",)
        assert sum(steps for *_, steps in rows[number]["value"]["bins"]) > 22


@pytest.mark.slow
def test_rounds_that_are_killed_end_with_the_table_of_those_that_are_not(tmp_path):
    """By `kill -9`: while round 1 collects, and while round 2 trains."""
    given = [f"--config.data.path={tmp_path / 'data'}", "--config.improve.steps=100"]
    given += ["--config.train.checkpoint_every=20"]
    run_command("collect", *given, config=CONFIG)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_command("improve", *given, f"--config.workdir={whole}", config=CONFIG)

    def killed_at(pattern: str) -> None:
        command = ["-m", "qt_jax", "improve", f"--config={CONFIG}", *given, f"--config.workdir={killed}"]
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, start_new_session=True)
        deadline = time.monotonic() + 300
        while not list(killed.glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_group_ends(process.pid)

    killed_at("improve/round_1/episodes/collecting/*/000000.pickle")
    assert not (killed / "improve/round_1/episodes/1.0.0").exists()
    killed_at("improve/round_2/run/checkpoints/20")
    assert not (killed / "improve/round_2/run/checkpoints/100").exists()
    assert not (killed / "improve/round_2/round.json").exists()
    run_command("improve", *given, f"--config.workdir={killed}", config=CONFIG)
    tables = [(folder / "improve" / rounds.TABLE).read_text() for folder in (whole, killed)]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 3
    assert not list(killed.glob("improve/round_*/episodes/incomplete*"))
