"""The learner on the tiny dataset: it learns, resumes bit for bit, and stops at what is wrong."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from qt_jax import agents
from qt_jax.errors import UserError
from qt_jax.training import checkpoints, datasets, loop, setup
from qt_jax.training.config import validate
from tests import tiny
from tests.conftest import ROOT, train


def equal_trees(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def metric_records(workdir):
    return [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]


def test_run_directory_and_metrics(trained):
    workdir = Path(trained.workdir)
    records = metric_records(workdir)
    last = {k: v for r in records for k, v in r.items()}
    expected = "loss td_error conservative_loss q_taken q_other target mc_clamp_share grad_norm".split()
    assert {f"train/{name}" for name in expected} | {
        "steps_per_s",
        "data_wait_share",
        "validation/td_error",
        *(f"validation/{name}/{outcome}" for name in ("q", "q_bias") for outcome in ("success", "failure")),
        "memorisation/success", "memorisation/failure", "validation/greedy_is_most_frequent",
        "validation/attention_entropy/0", "validation/mc_clamp_share",
    } <= set(last)  # fmt: skip
    assert not any("entropy" in name for name in last if name.startswith("train/"))
    assert 0 <= last["validation/auc_first_q"] <= 1
    assert list((workdir / "tensorboard").iterdir())
    assert checkpoints.latest_step(trained.workdir) == 20


def test_behaviour_cloning_loss_falls(dataset_path, tmp_path):
    """Its target does not move, so a few steps show it; Q-Transformer's may rise while values spread."""
    config = tiny.get_config("bc")
    config.data.path, config.workdir = dataset_path, str(tmp_path)
    config.optimizer.learning_rate = 2e-3
    train(config)
    records = metric_records(tmp_path)
    losses = [r["train/loss"] for r in records if "train/loss" in r]
    assert losses[-1] < 0.9 * losses[0]
    last = records[-1]
    assert {"validation/greedy_at_edge", "validation/attention_entropy/0"} <= set(last)
    assert not any("q_bias" in name or "memorisation" in name for name in last), "it has no values"


def test_killed_run_resumes_bit_for_bit(trained, config, tmp_path):
    """`kill -9` after step 10 of the real command, then the rest: equal to the undisturbed run.

    The position in the data is part of that.
    """
    command = [sys.executable, "-m", "qt_jax", "train", "--config=tests/tiny.py"]
    command += [f"--config.data.path={config.data.path}", f"--config.workdir={config.workdir}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = Path(config.workdir) / "checkpoints" / "10" / "commit_success.txt"
    while not saved.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoints.latest_step(config.workdir) == 10
    train(config)
    one, other = (saved_state(w) for w in (config.workdir, trained.workdir))
    assert {"params", "target_params", "opt_state", "step"} == set(one) and int(one["step"]) == 20
    params, rest = (
        _bytes(Path(config.workdir, "checkpoints/20", item)) for item in ("params", "train_state")
    )
    assert rest < 3.6 * params, "the target network and two moments, each once"
    equal_trees(one, other)
    one, other = (
        json.loads(Path(w, "checkpoints/20/data_iterator/metadata").read_text())
        for w in (config.workdir, trained.workdir)
    )
    assert one == other == {"batches": 20}
    steps, undisturbed = ([r["step"] for r in metric_records(w)] for w in (config.workdir, trained.workdir))
    assert steps == undisturbed, "each step once, though the killed run had logged past its checkpoint"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def saved_state(workdir):
    """The whole train state of the last checkpoint, as it was written."""
    path = Path(workdir).resolve() / "checkpoints" / str(checkpoints.latest_step(workdir))
    with ocp.StandardCheckpointer() as checkpointer:
        rest = checkpointer.restore(path / "train_state")
        return rest | {"params": checkpointer.restore(path / "params")}


def test_two_networks_with_dropout_augmentation_and_chunks_resume_bit_for_bit(config, tmp_path):
    config.model.networks = config.model.chunk = 2
    config.model.dropout, config.data.augment.shift, config.data.augment.brightness = 0.2, 2, 0.2
    config.model.entropy_target = 0.9
    config.model.layers = 1
    config.train.checkpoint_every = 3
    config.train.steps = 6
    whole = jax.device_get(train(config).params)
    shutil.rmtree(Path(config.workdir) / "checkpoints" / "6")
    assert checkpoints.latest_step(config.workdir) == 3
    equal_trees(jax.device_get(train(config).params), whole)


def test_a_finished_run_is_left_alone(trained):
    before = checkpoints.load_params(trained.workdir)[0]
    equal_trees(jax.device_get(train(trained).params), before)


def test_init_from_starts_at_the_parameters_of_another_run(trained, config):
    config.train.init_from = trained.workdir
    config.optimizer.learning_rate = 0.0
    config.optimizer.weight_decay = 0.0
    config.train.steps = 2
    state = train(config)
    equal_trees(jax.device_get(state.params), checkpoints.load_params(trained.workdir)[0])


def test_a_run_started_from_another_resumes_without_it(trained, config, tmp_path):
    origin = tmp_path / "origin"
    shutil.copytree(trained.workdir, origin)
    config.train.init_from = str(origin)
    config.train.steps = config.train.checkpoint_every = 2
    state = jax.device_get(train(config).params)
    shutil.rmtree(origin)
    config.train.init_from = ""  # the checkpoint knows where the run started
    equal_trees(jax.device_get(train(config).params), state)


@pytest.mark.parametrize("change", [{"width": 64}, {"networks": 2}])
def test_init_from_another_network_is_refused(trained, config, monkeypatch, change):
    config.train.init_from = trained.workdir
    config.model.update(change)
    monkeypatch.setattr(loop.program, "build", None)  # what takes minutes comes later
    refusal = "has parameter .* of shape .*, this config's network has .* or another config.train.init_from"
    with pytest.raises(UserError, match=refusal):
        train(config)


@pytest.mark.parametrize(
    "key, value",
    [
        ("train.steps", 2**31),
        ("optimizer.warmup_steps", 2**31),
        ("optimizer.learning_rate", math.inf),
        ("optimizer.weight_decay", math.nan),
        ("optimizer.final_learning_rate", -0.1),
        ("value_range", (0.0, math.inf)),
        ("data.step_penalty", math.inf),
    ],
)
def test_a_number_beyond_its_bounds_is_refused_by_name(key, value):
    config = tiny.get_config()
    config.data.path = "data"
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key} is "):
        validate(config, 1)


def test_checkpoint_of_another_config_is_refused(trained):
    config = trained.copy_and_resolve_references()
    config.discount = 0.9
    with pytest.raises(UserError, match="config.discount=0.98, this run has 0.9"):
        train(config)


@pytest.mark.parametrize("name, value", [("data_fingerprint", "0123"), ("datasets", {})])
def test_other_data_under_the_same_run_is_refused(trained, monkeypatch, name, value):
    load = setup.prepare

    def changed(*arguments):
        *rest, assets = load(*arguments)
        return *rest, dataclasses.replace(assets, **{name: value})

    monkeypatch.setattr(setup, "prepare", changed)
    with pytest.raises(
        UserError, match=f"was trained with other {name} than the data gives now: the dataset changed"
    ):
        train(trained)


def test_actions_held_for_another_time_are_refused(config):
    config.env.action_repeat = 4
    with pytest.raises(
        UserError, match="holds each action of faucet-.* for 0.0625 s, config.env.action_repeat for 0.05 s"
    ):
        train(config)


def test_nan_stops_the_run_and_is_not_saved(config):
    config.optimizer.learning_rate = 1e30
    config.optimizer.clip_norm = 1e30
    config.optimizer.warmup_steps = 0
    with pytest.raises(UserError, match=r"Step \d+: (loss|\w+) is (nan|inf)"):
        train(config)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.latest_step(config.workdir)


def test_every_wrong_setting_is_named_at_once(config):
    config.discount = 1.5
    config.agent.backup = "jump"
    config.model.heads = 3
    with pytest.raises(
        UserError, match=r"config.discount is 1.5.*config.model.width is 32.*config.agent.backup is 'jump'"
    ):
        validate(config, 8)


@pytest.mark.parametrize(
    "agent, key, value, expected",
    [
        ("iql", "agent.expectile", 1.0, r"a number in \(0, 1\)"),
        ("iql", "agent.temperature", 0.0, "a positive number"),
        ("awac", "agent.max_weight", -1.0, "a positive number"),
        ("iql", "agent.policy_weight", 0.0, "a positive number, and finite"),
        ("iql", "agent.value_loss", "huber", r"one of \('squared', 'logistic', 'histogram'\)"),
        ("awac", "agent.value_cells", 7, "at least 8"),
        ("awac", "agent.advantage_of", "state", r"one of \('dim', 'action'\)"),
        ("decision_transformer", "agent.timesteps", -1, "0 or more"),
        ("bc", "model.entropy_target", 1.0, r"a share in \[0, 1\), 0 for none"),
        ("bc", "model.networks", 0, "a positive number"),
        ("awac", "agent.target_q", "most", r"one of \('mean', 'least'\), and 'mean' of one network"),
        ("iql", "agent.acting_q", "least", r"one of \('mean', 'least'\), and 'mean' of one network"),
        ("q_transformer", "agent.value_cells", 7, "at least 8"),
        ("q_transformer", "agent.alpha", -1.0, "at least 0"),
        ("cql", "agent.conservatism", "all", r"one of \('q_min', 'closed_form', 'softmax', 'none'\)"),
        ("q_transformer", "agent.conservatism", "closed_form", "another without a behaviour head"),
        ("q_transformer", "agent.behaviour_of", "successes", "one of .*, and 'all' without a behaviour head"),
        ("q_transformer", "agent.behaviour_weight", float("inf"), "at least 0, and finite"),
        ("q_transformer", "agent.value_width", -0.1, "0, or above it .* with conservatism='q_min' or 'none'"),
        ("cql", "agent.value_width", 0.05, "0, or above it .* with conservatism='q_min' or 'none'"),
        ("q_transformer", "agent.support_width", 0.05, "0, or above it .* with config.agent.support or"),
        ("awac", "agent.backup", "jump", r"one of \('chain', 'skip_first_dim'\)"),
        ("iql", "agent.target_rate", 0.0, r"a number in \(0, 1\]"),
        ("iql", "agent.n_step", 0, "at least 1"),
    ],
)
def test_a_wrong_setting_of_an_agent_is_named(agent, key, value, expected):
    config = tiny.get_config(agent)
    validate(config, 1)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key} is {value!r}, expected {expected}"):
        validate(config, 1)


def test_conservatism_in_closed_form_needs_an_alpha():
    config = tiny.get_config()
    config.agent.update({"behaviour_weight": 1.0, "conservatism": "closed_form"})
    validate(config, 1)
    config.agent.alpha = 0.0
    with pytest.raises(
        UserError, match="alpha is 0.0, expected at least 0, and above 0 with conservatism='closed_form'"
    ):
        validate(config, 1)


def test_data_of_another_observation_is_refused(config):
    config.env.cameras = ()
    config.env.state = "full"
    with pytest.raises(UserError, match=r"has state of shape .*, the spec says"):
        train(config)


@pytest.mark.parametrize(
    "change",
    [
        {"value_loss": "histogram", "n_step": 3, "monte_carlo": False, "conservatism": "none"},
        {"backup": "skip_first_dim", "conservatism": "softmax"},
        {
            **{"backup": "skip_decoded", "value_loss": "logistic", "behaviour_weight": 1.0},
            **{"conservatism": "closed_form", "support_width": 0.05},
        },
    ],
    ids=lambda change: next(iter(change.values())),
)
def test_every_variant_trains(config, change):
    config.agent.update(change)
    config.agent.value_cells = 21
    config.model.layers = 1
    config.train.steps = config.train.validate_every = 2
    assert int(train(config).step) == 2


def test_loss_follows_the_reward_and_ignores_the_observation_after_a_terminal_step(config):
    """Through the whole agent: what the public re-implementation gets wrong."""
    from qt_jax.agents import q_transformer
    from qt_jax.data import validation_segments

    config.agent.monte_carlo = False
    frozen, recipe, assets = setup.prepare(config, datasets.entries(config))
    ensemble = agents.make_ensemble(config, assets.interface)
    params = ensemble.init(jax.random.key(0))

    def one(draw):
        return next(validation_segments.batches(recipe, [draw], batch_size=1))

    draws = validation_segments.held_out(recipe, 100)
    terminal = [draw for draw in draws if one(draw).is_terminal.any()]
    truncated = [draw for draw in draws if one(draw).is_last.any() and not one(draw).is_terminal.any()]

    @jax.jit
    def compute(batch):
        targets = q_transformer.targets(frozen, ensemble, params, batch)
        return q_transformer.loss(frozen, ensemble.network, params, targets, batch, None)["loss"][0]

    def changed_by_last_observation(draw):
        batch = one(draw)
        state = np.where(batch.is_last[..., None], batch.state + 3.0, batch.state).astype(np.float32)
        images = {
            k: np.where(batch.is_last[..., None, None, None], 255 - v, v).astype(np.uint8)
            for k, v in batch.images.items()
        }
        return float(compute(batch)) != float(compute(dataclasses.replace(batch, state=state, images=images)))

    assert terminal and truncated
    assert not any(map(changed_by_last_observation, terminal[:3]))
    assert all(map(changed_by_last_observation, truncated[:3]))
    batch = one(terminal[0])
    assert float(compute(batch)) != float(compute(dataclasses.replace(batch, reward=batch.reward * 0.5)))
