"""Weights & Biases, offline: what a run logs is in the files that `wandb sync` would send."""

import json
import sys
from pathlib import Path

import pytest
import wandb

from qt_jax.errors import UserError
from qt_jax.training import tracking
from tests.conftest import train


def test_a_run_and_its_continuation_are_one_run_there_with_config_and_metrics(config, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config.train.wandb = "tests"
    for _ in range(2):
        train(config)
    first, second = sorted(Path(config.workdir).glob("wandb/offline-run-*/run-*.wandb"))
    assert first.stem == second.stem
    content = first.read_bytes()
    for line in Path(config.workdir, "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        name = next(name for name in values if name.endswith("/loss"))
        assert name.encode() in content and repr(values[name]).encode() in content
    assert b"target_rate" in content and b"tests" in content


def test_what_is_missing_is_one_line(config, monkeypatch):
    config.train.wandb = "tests"
    Path(config.workdir).mkdir()
    wandb.teardown()  # which has read the variables of the test before
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "no-key")
    with pytest.raises(UserError, match="config.train.wandb is 'tests': .*WANDB_MODE=offline"):
        tracking.Tracker(config, 0.0)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'qt_jax\[wandb\]'"):
        tracking.Tracker(config, 0.0)
