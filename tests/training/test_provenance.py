"""Where a run came from, as its directory says."""

import json
import subprocess
from pathlib import Path

import pytest

from qt_jax.envs import suites
from qt_jax.errors import UserError
from qt_jax.training import checkpoints, provenance
from qt_jax.training.assets import SCHEMA, Assets
from qt_jax.training.continuing import refuse_to_continue
from tests.conftest import ROOT


def test_a_run_names_its_config_commit_command_and_environment(trained):
    workdir = Path(trained.workdir)
    saved = json.loads((workdir / "config.json").read_text())
    stored = json.loads(json.dumps(checkpoints.load_assets(trained.workdir).config))
    # The run is a copy, and another test may have started it again where it is now.
    assert saved == stored | {"workdir": saved["workdir"]} and saved["train"]["steps"] == 20
    start = json.loads((workdir / "starts.jsonl").read_text().splitlines()[0])
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    assert start["commit"] == (head or None)
    assert start["command"] and start["packages"]["jax"] and start["devices"].endswith("cpu")


@pytest.fixture
def assets(trained) -> dict:
    """As a checkpoint holds them."""
    return json.loads(json.dumps(checkpoints.load_assets(trained.workdir).to_json()))


def test_assets_of_another_version_say_so(assets):
    again, newer = "train it again with this version", "install the version that wrote it"
    for value, of, remedy in (
        ({"version": "0.1.0", "instruction_dim": 512}, "another", again),
        (assets | {"schema": SCHEMA - 1}, "another", again),
        (assets | {"schema": SCHEMA + 1}, "a newer", newer),
    ):
        expected = rf"runs/old is a checkpoint of {of} .*, this version reads {SCHEMA}\); {remedy}"
        with pytest.raises(UserError, match=expected):
            Assets.from_json(value, "runs/old")


def test_settings_that_came_after_a_checkpoint_have_their_defaults(assets):
    whole = Assets.from_json(assets, "runs/old").config
    del assets["config"]["model"]["dropout"], assets["config"]["agent"]["target_rate"]
    older = json.loads(json.dumps(Assets.from_json(assets, "runs/old").config))
    assert older == whole
    del older["data"]["idle"], older["data"]["balance"]["failures"]
    assert refuse_to_continue(older, whole, 20, "runs/old/checkpoints/20") == {}
    older["data"]["bins"] = whole["data"]["bins"] + 1
    with pytest.raises(UserError, match="was made with config.data.bins"):
        refuse_to_continue(older, whole, 20, "runs/old/checkpoints/20")


@pytest.mark.parametrize(
    "section, setting, name, file",
    [
        ("agent", "name", "my_robots.learner:Agent", "my_robots/learner.py"),
        ("agent", "name", "learner:Agent", "learner.py"),
        ("model", "encoder", "my_encoder:Encoder", "my_encoder.py"),
    ],
)
def test_a_checkpoint_whose_agent_or_encoder_is_not_here_names_its_file(assets, section, setting, name, file):
    assets["config"][section][setting] = name
    with pytest.raises(UserError) as caught:
        Assets.from_json(assets, "runs/mine/checkpoints/20")
    message = str(caught.value)
    given = f"config.{section}.{setting} is '{name}'; there is no file {file} in the directory"
    assert message.startswith(f"runs/mine/checkpoints/20: {given}")
    assert "add its directory to PYTHONPATH" in message and "\n" not in message


def test_a_suite_that_is_not_here_names_its_file(config):
    config.env.suite = "my_robots.suite"
    expected = "config.env.suite is 'my_robots.suite'; there is no file my_robots/suite.py .* PYTHONPATH"
    with pytest.raises(UserError, match=expected):
        suites.of(config)


def test_code_in_no_repository_has_its_commit_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("QT_JAX_COMMIT", "abc")
    assert provenance.commit_of(tmp_path) == {"commit": "abc", "changed": []}
    monkeypatch.delenv("QT_JAX_COMMIT")
    assert provenance.commit_of(tmp_path)["commit"] is None


def test_a_second_start_is_a_second_line_and_secrets_stay_out(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JWT", "secret")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    config = trained.copy_and_resolve_references()
    config.workdir = str(tmp_path)
    provenance.record(config)
    provenance.record(config)
    lines = (tmp_path / "starts.jsonl").read_text().splitlines()
    assert (
        len(lines) == 2
        and "secret" not in lines[1]
        and json.loads(lines[1])["environment"]["SLURM_JOB_ID"] == "7"
    )
