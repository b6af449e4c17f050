"""Where a run came from, as its directory says."""

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from qt_jax.errors import UserError
from qt_jax.training import checkpoints, provenance
from tests.conftest import ROOT


def test_a_run_names_its_config_commit_command_and_environment(trained):
    workdir = Path(trained.workdir)
    saved = json.loads((workdir / "config.json").read_text())
    assert (
        saved == json.loads(json.dumps(checkpoints.load_assets(trained.workdir).config))
        and saved["train"]["steps"] == 20
    )
    start = json.loads(
        (workdir / "starts.jsonl").read_text().splitlines()[0]
    )  # another test may have started it again
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    assert start["commit"] == (head or None)
    assert start["command"] and start["packages"]["jax"] and start["devices"].endswith("cpu")


def test_assets_of_another_version_say_what_they_lack(trained):
    value = json.loads(json.dumps(dataclasses.asdict(checkpoints.load_assets(trained.workdir))))
    del value["config"]["model"]["past_actions"]
    with pytest.raises(
        UserError, match=r"lack \['config.model.past_actions'\]; it was written by another version"
    ):
        checkpoints.Assets.from_json(value, "runs/old")


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
