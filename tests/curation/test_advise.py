"""`advise`: counts of data whose numbers are known, rules by hand, and the command."""

import dataclasses

import numpy as np
import pytest

from qt_jax.curation.advise import coverage, facts, rule, text
from qt_jax.curation.advise.facts import Facts, Task
from qt_jax.curation.advise.rule import Condition, DecisionList, Figures, Rule
from tests.conftest import run_command
from tests.data.recipes import make_recipe
from tests.data.synthetic import LENGTHS


def column(*values):
    return np.asarray(values, float)[:, None]


def test_what_is_near_demonstrations_by_hand():
    """Each state of a demonstration is 0.5 from the other demonstration, so that the reach is 0.5."""
    demonstrations = [column(0, 1, 2), column(0.5, 1.5)]
    first, second = coverage.near(demonstrations, [column(2.4, 3), column(-0.5)])
    assert first.tolist() == [True, False] and second.tolist() == [True]
    assert coverage.near(demonstrations[:1], [column(0)]) is None


def test_the_facts(synthetic_root):
    """Episode n has n + 1 steps, of which the first alone is in an outermost bin; n % 3 is its kind."""
    recipe = make_recipe(synthetic_root, validation_fraction=0.2)
    (source,) = recipe.mixture.sources
    assert len(source.validation)
    found = facts.of_source(recipe, source)
    assert [(group.kind, group.collector, group.episodes, group.read) for group in found.groups] == [
        ("demonstrations", "demonstration", 8, 8),
        ("successes", "noise", 8, 8),
        ("failures", "noise", 8, 8),
    ]
    assert found.tasks == [Task("even", 4, 8, 4), Task("odd", 4, 8, 4)]
    for place, group in enumerate(found.groups):
        assert group.median == np.median(LENGTHS[place::3])
        assert group.edges == {"x": pytest.approx(8 / sum(LENGTHS[place::3]))}
    # Of a task every sixth episode is a demonstration, and an episode's states are those of its neighbours.
    assert [group.near for group in found.groups] == [None, 1.0, 1.0]
    succeeded = [length for number, length in enumerate(LENGTHS) if number % 3 < 2]
    assert found.features == {
        "demonstrations": 4.0,
        "autonomous": 8.0,
        "autonomous_success": 0.5,
        "edge": pytest.approx(16 / sum(succeeded)),
        "near": 1.0,
        "by_person": None,
    }


@pytest.mark.parametrize("most", [0, 3])
def test_what_is_read_is_capped_and_said(synthetic_root, monkeypatch, most):
    """There may be groups of which nothing is read, where one kind has many collectors."""
    monkeypatch.setattr(facts, "READ", most)
    recipe = make_recipe(synthetic_root)
    found = facts.of_source(recipe, recipe.mixture.sources[0])
    assert [(group.episodes, group.read) for group in found.groups] == [(8, most)] * 3
    row = next(line for line in text.counts(found) if line.startswith("failures"))
    assert row.split()[:5] == ["failures", "noise", "8", "13.5", str(most)]


FEATURES = dict.fromkeys(facts.FEATURES, None) | {"demonstrations": 10.0, "near": 0.6}
FACTS = Facts([], [Task("lift", 10, 5, 2)], 2, FEATURES)
GOOD = Rule(
    decides=DecisionList(
        (
            Condition("edge", False, 0.5, "imitate_all"),
            Condition("near", True, 0.5, "imitate_successes"),
        ),
        "q_transformer",
    ),
    cells=9,
    groups=7,
    tested=Figures(6, 1.0),
    constants={"imitate_all": Figures(2, 20.0), "q_transformer": Figures(5, 2.0)},
)
BALANCE = dataclasses.replace(GOOD, decides=DecisionList((), "natural"))


def test_the_first_condition_that_holds_decides():
    """What is not known is neither above a threshold nor below it."""
    assert GOOD.decides.choose(FEATURES) == ("imitate_successes", GOOD.decides.conditions[1])
    assert GOOD.decides.choose(FEATURES | {"edge": 0.5}) == ("imitate_all", GOOD.decides.conditions[0])
    assert GOOD.decides.choose(FEATURES | {"near": 0.5}) == ("q_transformer", None)
    assert Rule.from_json(GOOD.to_json()) == GOOD


@pytest.mark.parametrize("tested", [Figures(5, 1.0), Figures(6, 2.0)])
def test_nothing_is_advised_where_the_rule_is_not_better(tested):
    """It has to be right more often and to lose less. The figures are printed either way."""
    figures = [
        "    the rule                  the best choice on  6,  1.0 points of success lost",
        "    always q_transformer      the best choice on  5,  2.0 points of success lost",
    ]
    assert GOOD.is_better
    said = text.advice(FACTS, GOOD, BALANCE)
    assert said[:2] == [
        "advice: imitate the successes: bc with --config.data.episodes=successes",
        "  because share of the autonomous successes' states that are near demonstrations: 0.6 is above 0.5",
    ]
    assert set(figures) < set(said)
    said = text.advice(FACTS, dataclasses.replace(GOOD, tested=tested), BALANCE)
    assert said[0] == "advice: none, since the rule is no better than one choice for all"
    assert figures[1] in said[:5] and not any(line.startswith("  because") for line in said[:5])
    assert said[5].startswith("batches of Q-Transformer: batches as the data come: --config.")


def test_without_a_success_or_with_people():
    nothing = dataclasses.replace(FACTS, tasks=[Task("lift", 0, 5, 0)])
    assert text.advice(nothing, GOOD, BALANCE) == [
        "advice: collect successes first; no method here learns from failures alone"
    ]
    people = dataclasses.replace(FACTS, features=FEATURES | {"by_person": 0.3})
    assert any(line.startswith("people acted at known steps") for line in text.advice(people, GOOD, BALANCE))
    alone = dataclasses.replace(FACTS, state_dim=0)
    assert text.counts(alone)[-1].startswith("near: not measured; the dataset has no state")


def test_the_rules_that_are_shipped():
    choice, balance = rule.load()
    assert set(choice.constants) == set(rule.CHOICES) and set(balance.constants) == set(rule.BALANCES)
    for own, known in ((choice, rule.CHOICES), (balance, rule.BALANCES)):
        assert {own.decides.otherwise, *(condition.then for condition in own.decides.conditions)} <= set(
            known
        )
        assert {condition.feature for condition in own.decides.conditions} <= set(facts.FEATURES)
        assert own.tested.right <= own.cells


def test_the_command(dataset_path, trained):
    said = run_command("advise", f"--data={dataset_path}", config="").stdout
    assert (
        said.startswith(f"collected: {dataset_path}") and "successful demonstrations  demonstration" in said
    )
    assert "\n  advice: " in said and "values:" not in said
    said = run_command("advise", f"--run={trained.workdir}", config="").stdout
    assert f"\nvalues: by {trained.workdir}, of " in said and "\n  of each success: Q 0." in said


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--data=nowhere"], "nowhere"),
        (["--run=nowhere"], "nowhere"),
        (["--run=a", "--data=b"], "--run has a config and data of its own; give it without"),
        ([], "Give --config=FILE"),
    ],
)
def test_bad_input_is_one_line(flags, problem):
    result = run_command("advise", *flags, config="", check=False)
    assert result.returncode == 2 and problem in result.stderr and result.stderr.count("\n") == 1
