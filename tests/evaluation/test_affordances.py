"""Precision, recall and F1 by hand, and the command on the tiny checkpoint in the real simulator."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from qt_jax import text
from qt_jax.errors import UserError
from qt_jax.evaluation import affordance_page, affordances, detection, runs
from qt_jax.export import checkpoint_policy
from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions
from tests.conftest import run_command

VALUES = np.asarray([0.9, 0.8, 0.7, 0.4, 0.3, 0.1])
OUTCOMES = np.asarray([True, False, True, True, False, False])


def test_scores_by_hand():
    found = detection.scores(VALUES >= 0.7, OUTCOMES)
    assert [found[f"{a}_{b}"] for a in ("true", "false") for b in ("positives", "negatives")] == [2, 2, 1, 1]
    assert (found["precision"], found["recall"], found["f1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    nothing = detection.scores(np.zeros(2, bool), np.zeros(2, bool))
    assert (nothing["precision"], nothing["recall"], nothing["f1"]) == (None, None, None)


def test_threshold_of_the_best_f1_by_hand():
    """F1 at each value from the top: 1/2, 2/5, 2/3, 6/7, 3/4, 2/3: best at 0.4, halfway to 0.3."""
    assert detection.best_threshold(VALUES, OUTCOMES) == pytest.approx(0.35)
    assert detection.best_threshold(VALUES, ~OUTCOMES[::-1]) == pytest.approx(0.75)
    assert detection.best_threshold(VALUES[:2], np.ones(2, bool)) == pytest.approx(0.8)  # none is lower
    assert detection.best_threshold(VALUES, np.zeros(6, bool)) is None
    equal, one = np.asarray([0.5, 0.5, 0.1]), np.asarray([True, False, False])
    assert detection.best_threshold(equal, one) == pytest.approx(0.3)


def test_curve_by_hand():
    thresholds, recall, precision = detection.curve(VALUES, OUTCOMES)
    np.testing.assert_array_equal(thresholds, VALUES)
    np.testing.assert_allclose(recall, np.asarray([1, 1, 2, 3, 3, 3]) / 3)
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5, 1 / 2])
    assert detection.average_precision(VALUES, OUTCOMES) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_intervals_draw_states_not_pairs():
    """Two pairs of one state always come together: one is right, one a false alarm, every precision 1/2."""
    predicted, outcomes, groups = np.ones(8, bool), np.tile([True, False], 4), np.repeat(range(4), 2)
    found = detection.intervals(predicted, outcomes, groups, seed=0, resamples=50)
    assert found == {"precision": [0.5, 0.5], "recall": [1.0, 1.0], "f1": pytest.approx([2 / 3, 2 / 3])}
    apart = detection.intervals(predicted, outcomes, np.arange(8), seed=0, resamples=50)
    assert apart["precision"][0] < 0.5 < apart["precision"][1]


def test_scenes():
    shared = (("a", "b"), ("d", "e"))
    assert affordances.scenes(("a", "c", "b", "d"), shared) == [("a", "b"), ("c",), ("d",)]


def rows(values, outcomes, split):
    same = {"task": "a", "asked": "a", "split": split, "done": False}
    pairs = enumerate(zip(values, outcomes))
    return [same | {"index": i, "value": value, "success": success} for i, (value, success) in pairs]


def test_judgement_by_hand():
    """Threshold from the validation states alone.

    What is done already does not count, what has no object there fails if it counts.
    """
    made = rows(VALUES, OUTCOMES.tolist(), "validation")
    made += rows([0.9, 0.36, 0.2, 0.36], [True, False, True, False], "test")
    made += rows([0.5, 0.2, 0.1, 0.0], [None] * 4, "test")
    made += [rows([0.99], [True], "test")[0] | {"done": True}]
    found = affordances.judge(made, seed=0, absent=False)
    assert found["threshold"] == pytest.approx(0.35) and found["validation"] == {"pairs": 6, "successes": 3}
    test = found["test"]
    assert (test["pairs"], test["successes"]) == (4, 2) and test["f1"] == pytest.approx(0.4)
    assert test["precision"] == pytest.approx(1 / 3) and test["recall"] == 0.5
    assert found["always"] == pytest.approx(2 / 3)
    every = affordances.judge(made, seed=0, absent=True)
    test = every["test"]
    assert (test["pairs"], test["precision"], test["recall"]) == (8, 0.25, 0.5)
    method = {"scene": found, "all": every, "pairs": made, "step": 1}
    assert re.search(
        r"of the scene +0\.33 \[.*\] +0\.50 \[.*\] +0\.40 \[.*\] +0\.67 +0\.35 +2 of 4\n",
        affordance_page.table({"mine": method}),
    )
    assert affordance_page.figure(method, {"mine": method}).startswith("data:image/png")
    none = affordances.judge(rows(VALUES, [False] * 6, "validation") + made[6:], seed=0, absent=False)
    assert none["threshold"] is None and "precision" not in none["test"]


def test_the_command_and_the_report(trained, tmp_path):
    """Of a copy of the run: what is there already stays as it is."""
    run = tmp_path / "run"
    shutil.copytree(trained.workdir, run)
    marked = "<p>before</p><!-- affordances --><!-- end of affordances --><p>after</p>"
    (run / "report.html").write_text(marked)
    ours = [
        f"--config.evaluate.affordances.{setting}" for setting in ("states=4", "decisions=3", "timed=(1, 2)")
    ]
    result = run_command("affordances", f"--config.workdir={run}", "--config.evaluate.max_decisions=5", *ours)
    assert "precision" in result.stdout and f"page: {run}/affordances.html" in result.stdout
    summary = json.loads((run / "affordances.json").read_text())
    made = summary["pairs"]
    assert len(made) == 2 * 4 * 2 and {row["split"] for row in made} == {"validation", "test"}
    assert all(
        (row["decisions"] == 0) == (row["index"] < 2) and isinstance(row["success"], bool) for row in made
    )
    assert all(0 < row["value"] < 1 for row in made) and set(summary["cost"]["p50_ms"]) == {"1", "2"}
    assert min(summary["cost"]["p50_ms"].values()) > 0 and summary["cost"]["window"] == 2
    for page in (run / "affordances.html", run / "report.html"):
        assert page.read_text().count("<img src=") == 1 and not re.search(
            r'(src|href)="(?!data:)', page.read_text()
        )
    assert (run / "report.html").read_text().startswith("<p>before</p><!-- affordances -->")
    affordance_page.insert(Path(run))
    assert (run / "report.html").read_text().count("<img src=") == 1
    with pytest.raises(UserError, match="has no affordances.json; run `affordances` on it first"):
        config = trained.copy_and_resolve_references()
        config.evaluate.references = (trained.workdir,)
        runs.references(config, ("a",), "affordances.json", "affordances")


def test_a_state_is_valued_with_its_window(trained):
    """As the first decision of an episode that is told each instruction from the window's start on."""
    policy, _, _ = checkpoint_policy.load(trained.workdir, capacity=2)
    sessions = Sessions(policy, text.embed)
    observation, rng = policy.spec.interface.observation, np.random.default_rng(0)

    def image():
        return rng.integers(0, 256, (*observation.image_size, 3), np.uint8)

    def state():
        return rng.normal(size=observation.state_dim).astype(np.float32)

    seen = [
        {"images": {camera: image() for camera in observation.cameras}, "state": state()} for _ in range(2)
    ]
    asked = ["open the tap", "close the tap", "open the tap"]
    values = affordances.value(sessions, seen, asked)
    for instruction, value in zip(asked, values):
        for number, one in enumerate(seen):
            (decision,) = sessions.act(
                [Request("other", one["images"], one["state"], instruction, reset=number == 0)]
            )
        assert decision.scores[0].max() == pytest.approx(value, abs=1e-6)
    sessions.close("other")
    assert (
        values[0] == values[2] != values[1] and affordances.value(sessions, seen[1:], asked)[0] != values[0]
    )


def test_an_agent_without_values_is_refused(trained):
    policy, _, _ = checkpoint_policy.load(trained.workdir, capacity=1)
    with pytest.raises(UserError, match="this policy's scores are of kind 'log-probability'"):
        affordances.refuse_without_values(dataclasses.replace(policy.spec, score_name="log-probability"))
