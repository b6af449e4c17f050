"""The rule of `advise`, fitted and tested on cells whose best choice is known."""

import pytest

from benchmarks import advise_rule
from benchmarks.advise_rule import Cell
from qt_jax.curation.advise import facts
from qt_jax.curation.advise.rule import Figures

CHOICES = ("imitate_all", "q_transformer")


def cell(recipe, edge, imitate_all, q_transformer):
    success = {"imitate_all": imitate_all, "q_transformer": q_transformer}
    return Cell(recipe, dict.fromkeys(facts.FEATURES, None) | {"edge": edge}, success)


CELLS = [
    cell("a", 0.1, 0.9, 0.5),
    cell("b", 0.2, 0.8, 0.5),
    cell("c", 0.6, 0.2, 0.6),
    cell("d", 0.8, 0.3, 0.4),
]


def test_the_fit_by_hand():
    found = advise_rule.fit(CELLS, CHOICES, 2)
    (condition,) = found.conditions
    assert (condition.feature, condition.threshold) == ("edge", pytest.approx(0.4))
    assert {condition.above: condition.then, (not condition.above): found.otherwise} == {
        True: "q_transformer",
        False: "imitate_all",
    }


def test_each_recipe_is_left_out():
    """Each is judged rightly by a threshold between the others; the constants lose 12.5 and 17.5 points."""
    made = advise_rule.make(CELLS, "choice", CHOICES)
    assert made.tested == Figures(4, 0.0) and (made.cells, made.groups) == (4, 4)
    assert made.constants == {"imitate_all": Figures(2, 12.5), "q_transformer": Figures(2, 17.5)}


def test_a_recipe_is_left_out_whole():
    """Of the only two cells in which imitation is best neither judges the other."""
    same = [CELLS[0], cell("a", 0.2, 0.8, 0.5), *CELLS[2:]]
    assert advise_rule.make(same, "choice", CHOICES).tested == Figures(2, 17.5)


def test_what_was_not_measured_is_the_worst():
    one = Cell("a", {}, {"imitate_successes": 0.7, "q_transformer": 0.4})
    every = ("imitate_all", "imitate_successes", "q_transformer")
    assert one.lost("imitate_all", every) == pytest.approx(30)
    assert one.lost("imitate_successes", every) == 0


def test_each_cell_was_run():
    sources = advise_rule._sources()
    assert len({source.name for source in sources}) == len(sources) == 20
    for source in sources:
        assert len(advise_rule.success(source.methods, source.cell)) > 1, source.name
