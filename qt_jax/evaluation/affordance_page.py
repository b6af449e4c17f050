"""The results of `affordances` as a table, a figure, a page, and a part of the run's report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from etils import epath

from qt_jax import storage
from qt_jax.evaluation import affordances, detection
from qt_jax.figures import figure_uri, plt

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
)
PAGE = "affordances.html"
SETS = {"scene": "of the scene", "all": "all"}
"""Instructions whose task can be tried in the scene; and all, of which those without their object fail."""

_PART = re.compile("<!-- affordances -->.*<!-- end of affordances -->", re.DOTALL)


def write(folder: epath.Path, summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> None:
    """Writes `affordances.html` and `affordances.json` of a run, and updates its report if it has one.

    Args:
        folder: the run's directory.
        summary: of the run (affordance_evaluation.py).
        methods: {name: summary} of this and other runs, shown side by side.

    """
    page = TEMPLATES.get_template("affordances.html").render(
        title=f"Affordances of {summary['method']}",
        summary=summary,
        methods=methods,
        sets=SETS,
        cell=cell,
        number=number,
        figure=figure(summary, methods),
    )
    (folder / PAGE).write_text(page)
    insert(folder)
    storage.replace_text(folder / "affordances.json", json.dumps(summary, indent=1) + "\n")


def insert(folder: epath.Path) -> None:
    """Copies the results in `affordances.html` into `report.html`, if both are there."""
    source, target = folder / PAGE, folder / "report.html"
    if source.exists() and target.exists():
        (part,) = _PART.findall(source.read_text())
        target.write_text(_PART.sub(lambda _: part, target.read_text()))


def figure(summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> str:
    """Draws the run's values by outcome, and every method's precision over recall, in the test states.

    Returns:
        A data URI.

    """
    drawing, (left, *right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    _draw_values(left, summary)
    for axes, key in zip(right, SETS):
        _draw_curves(axes, key, methods)
    return figure_uri(drawing)


def _draw_values(axes: Any, summary: dict[str, Any]) -> None:
    pairs = summary["pairs"]
    values, outcomes, _ = affordances.chosen(pairs, "test", absent=False)
    absent = [row["value"] for row in pairs if row["split"] == "test" and row["success"] is None]
    kinds = {
        "success": (values[outcomes], "tab:green"),
        "failure": (values[~outcomes], "tab:red"),
        "object not there": (np.asarray(absent), "0.6"),
    }
    every = np.concatenate([values, absent])
    bins = np.linspace(every.min(), every.max() + 1e-6, 25)
    groups, colors = zip(*kinds.values())
    axes.hist(groups, bins, label=list(kinds), color=colors, stacked=True)

    for name, style in {"scene": "--", "all": ":"}.items():
        threshold = summary[name]["threshold"]
        if threshold is not None:
            axes.axvline(threshold, color="black", linestyle=style, label=f"threshold ({SETS[name]})")
    axes.set(xlabel="value before acting", ylabel="test pairs of state and instruction")
    axes.legend(fontsize=7)


def _draw_curves(axes: Any, key: str, methods: dict[str, dict[str, Any]]) -> None:
    for name, method in methods.items():
        values, outcomes, _ = affordances.chosen(method["pairs"], "test", absent=key == "all")
        if not outcomes.any():
            continue
        found, test = method[key], method[key]["test"]
        _, recall, precision = detection.curve(values, outcomes)
        label = f"{name} (AP {found['average_precision']:.2f})"
        (line,) = axes.plot(recall, precision, drawstyle="steps-pre", label=label)
        color = line.get_color()
        axes.axhline(outcomes.mean(), color=color, linestyle=":", linewidth=1)
        if found["threshold"] is not None and test["precision"] is not None:
            axes.plot(test["recall"], test["precision"], "o", color=color)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
    axes.set_title(SETS[key], fontsize=9)
    if axes.lines:
        axes.legend(fontsize=7, loc="lower left")


def table(methods: dict[str, dict[str, Any]]) -> str:
    """Formats the numbers of the test states, a line for each method and set of instructions."""
    width = max(12, *map(len, methods)) + 2

    def line(name: str, words: str, scores: Sequence[str], *rest: str) -> str:
        wide = "".join(f"{text:>20}" for text in scores)
        return f"{name:{width}}{words:14}{wide}" + "".join(f"{text:>12}" for text in rest)

    scores = ("precision", "recall", "f1")
    heads = ("precision", "recall", "F1")
    lines = [line("affordances", "instructions", heads, "always yes", "threshold", "successes")]
    for name, method in methods.items():
        for key, words in SETS.items():
            row, test = method[key], method[key]["test"]
            cells = [cell(test, score) for score in scores]
            successes = f"{test['successes']} of {test['pairs']}"
            lines.append(line(name, words, cells, number(row["always"]), number(row["threshold"]), successes))
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Formats a score; "-" where there is none."""
    return "-" if value is None else f"{value:.2f}"


def cell(test: dict[str, Any], score: str) -> str:
    """Formats a score with its interval."""
    interval = test.get("intervals", {}).get(score)
    return number(test.get(score)) + (" [{:.2f}, {:.2f}]".format(*interval) if interval else "")
