"""Evaluation of the tiny checkpoint through the real command and the real simulator."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import qt_jax
from qt_jax import agents
from qt_jax.agents import q_transformer
from qt_jax.data import loader
from qt_jax.data.images import decode
from qt_jax.data.order import Draw
from qt_jax.data.segments import Cutting
from qt_jax.errors import UserError
from qt_jax.evaluation import evaluate, served, statistics
from qt_jax.evaluation.rollouts import Job, Rollout
from qt_jax.export import checkpoint_policy
from qt_jax.policy.observations import Keys
from qt_jax.specs import Decoding
from qt_jax.training import checkpoints, datasets, setup
from tests.conftest import run_command


def changed(config, key, value):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})
    return config


@pytest.fixture(scope="module")
def evaluated(trained):
    settings = f"--config.workdir={trained.workdir}"
    result = run_command("evaluate", settings)
    return Path(trained.workdir), result.stdout


def test_same_checkpoint_same_numbers(evaluated, trained):
    workdir, _ = evaluated
    first = json.loads((workdir / "evaluation.json").read_text())
    again = qt_jax.evaluate(changed(trained, "evaluate.num_envs", 2))
    assert json.loads(json.dumps(again)) == json.loads((workdir / "evaluation.json").read_text()) == first


def test_table_json_videos_and_report(evaluated):
    workdir, stdout = evaluated
    summary = json.loads((workdir / "evaluation.json").read_text())
    assert set(summary["tasks"]) == {"faucet-open", "faucet-close"} and summary["step"] == 20
    assert summary["tasks"]["faucet-open"]["episodes"] == 2 and 0 < summary["data"]["all"]["success"] < 1
    assert [row["task"] for row in summary["language"]] == ["faucet-open", "faucet-close"]
    assert "faucet-open" in stdout and "language:" in stdout and "q_transformer, all" in stdout
    videos = sorted((workdir / "videos").glob("*.mp4"))
    assert len(videos) == 2
    frames = iio.imread(videos[0])
    assert frames.shape[1:] == (192, 192, 3) and frames.std() > 15 and (frames[0] != frames[-1]).any()
    page = (workdir / "report.html").read_text()
    assert "What to watch" in page
    assert page.count("<video") == 2 and not re.search(r'(src|href)="(?!data:)', page)


def test_references_are_shown_beside_the_run(evaluated, tmp_path):
    workdir, _ = evaluated
    shutil.copy(workdir / "evaluation.json", tmp_path)
    few = "--config.evaluate.episodes=1", "--config.evaluate.max_decisions=2", "--config.evaluate.videos=0"
    beside = f"--config.evaluate.references=('{tmp_path}',)"
    result = run_command("evaluate", f"--config.workdir={workdir}", beside, *few)
    header = result.stdout.splitlines()[0]
    assert f"q_transformer, all, {workdir}" in header and f"q_transformer, all, {tmp_path}" in header


def test_a_missing_reference_is_named(trained):
    with pytest.raises(UserError, match="runs/none, which has no evaluation.json"):
        qt_jax.evaluate(changed(trained, "evaluate.references", ("runs/none",)))


def test_wilson_interval_by_hand():
    row = statistics.success_rate([True] * 8 + [False] * 2)
    np.testing.assert_allclose([row["low"], row["high"]], [0.4902, 0.9433], atol=1e-4)
    rollouts = [Rollout(Job("a", i, ""), i < 1, 4 + i, np.zeros((1, 1)), np.zeros((1, 1))) for i in range(2)]
    assert statistics.summarize(rollouts)["tasks"]["a"]["mean_length"] == 4.5


def test_runtime_agrees_with_the_teacher_forced_network(trained):
    """The policy that is served is the network that was trained.

    Also after more steps than the window, and in a second episode of the same session.
    """
    config, recipe, _ = setup.prepare(trained, datasets.entries(trained))
    source = recipe.mixture.sources[0]
    params, assets, _ = checkpoints.load_params(trained.workdir)
    policy = checkpoint_policy.build(params, assets, capacity=1)
    ensemble = agents.make_ensemble(config, assets.interface)
    for number in source.train[:2]:
        cutting = Cutting(int(source.index.columns["length"][number]) + 1, config.model.window, 1)
        reader = loader.SegmentReader(dataclasses.replace(recipe, cutting=cutting))
        draw = Draw(0, int(number), 0, 0, 0)
        episode, (segment, _) = reader.episode(draw).episode, reader.batch([draw])
        tokens, scores = [], []
        for t in range(episode.length):
            images = {name: decode(frames[t])[None] for name, frames in episode.images.items()}
            action = policy.act(
                np.arange(1), images, episode.state[t : t + 1], episode.embedding[None], np.asarray([t == 0])
            )
            tokens.append(action.tokens[0])
            scores.append(action.scores[0])
        forced_tokens = np.concatenate([np.stack(tokens), np.zeros((1, 4), np.int32)])[None]
        logits = ensemble.score(params, dataclasses.replace(segment, tokens=forced_tokens))
        bin_mask = segment.bin_mask(assets.interface.action.max_bins)[:, None]
        expected = np.asarray(q_transformer.q_values(config, bin_mask, logits))[0, 0, : episode.length]
        np.testing.assert_allclose(np.stack(scores), expected, atol=1e-5)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("env.action_repeat", 3, "was made with config.env.action_repeat=5, this run has 3"),
        ("env.tasks", ("push",), "trained without data of ['push']"),
        ("evaluate.num_envs", 0, "num_envs=0"),
        ("evaluate.decode", "best", "decode is 'best'; give 'greedy', 'beam:4'"),
        ("evaluate.decode", "rank", "'q_transformer' lacks them"),
        ("evaluate.step", 7, "no checkpoint of step 7; give one of [10, 20]"),
    ],
)
def test_evaluation_that_does_not_fit_the_run_is_one_line(trained, key, value, message):
    with pytest.raises(UserError) as caught:
        qt_jax.evaluate(changed(trained, key, value))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_policy_is_evaluated_as_the_settings_have_it_decode(trained):
    config = trained.copy_and_resolve_references()
    config.evaluate.decode = "beam:3"
    found = evaluate.of_run(config)
    assert found.decode == "beam:3" and found.actor.policy.spec.decoding == Decoding("beam", 3)
    spec = found.actor.policy.spec
    training = {
        "agent": "bc",
        "episodes": "all",
        "step": 1,
        "data": dict.fromkeys((*config.env.tasks, "all")),
    }
    keys = Keys.default(spec.interface.observation)
    metadata = {
        "observation": keys.describe(spec.interface.observation),
        "action": dataclasses.asdict(spec.interface.action),
        "decision": dataclasses.asdict(spec.interface.decision),
        "sessions": 3, "score": "Q", "decode": "beam:3", "training": training,
    }  # fmt: skip
    of_server = functools.partial(served.of_server, config, "ws://it", found.actor, metadata, keys)
    assert of_server().decode == "beam:3"
    metadata["decode"] = "greedy"
    with pytest.raises(UserError, match="decode is 'beam:3', ws://it decodes 'greedy'; leave it out, or"):
        of_server()
    del metadata["decision"]  # as a server from before chunks
    with pytest.raises(UserError, match=r"ws://it does not say its \['decision'\].*serve the policy with"):
        of_server()


def test_any_kept_checkpoint_can_be_asked_for(trained):
    (early, _, step), (late, _, last) = (
        checkpoints.load_params(trained.workdir, step=step) for step in (10, 0)
    )
    assert (step, last) == (10, 20) and not np.array_equal(early["head"], late["head"])


def test_missing_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint_policy.load(str(tmp_path), capacity=1)
