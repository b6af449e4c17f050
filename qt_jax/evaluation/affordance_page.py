"""What `affordances` found, as text, as a picture, as a page, and as a part of the run's report."""

from __future__ import annotations

import json
import re
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
SETS = {"scene": "of the scene", "all": "all"}
"""Instructions whose task can be tried in the scene; and those besides whose object is not there, which fail.
"""

_PART = re.compile("<!-- affordances -->.*<!-- end of affordances -->", re.DOTALL)


def write(folder: epath.Path, summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> epath.Path:
    """`affordances.html` and, last, `affordances.json` of a run; the report too, if it is there.

    Returns the page's path.

    Args:
        methods: {name: summary} of this and other runs, side by side.

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
    path = folder / "affordances.html"
    path.write_text(page)
    insert(folder)
    storage.replace_text(folder / "affordances.json", json.dumps(summary, indent=1) + "\n")
    return path


def insert(folder: epath.Path) -> None:
    """Shows the run's `affordances.html` in its `report.html` where it has both, in place of what was shown."""
    source, target = folder / "affordances.html", folder / "report.html"
    if source.exists() and target.exists():
        (part,) = _PART.findall(source.read_text())
        target.write_text(_PART.sub(lambda _: part, target.read_text()))


def figure(summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> str:
    """Values of the test pairs by outcome with the thresholds, and each method's precision over recall.

    A data URI.
    """
    drawing, (left, *right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    values, outcomes, _ = affordances.chosen(summary["pairs"], "test", absent=False)
    absent = np.asarray(
        [row["value"] for row in summary["pairs"] if row["split"] == "test" and row["success"] is None]
    )
    kinds = {
        "success": (values[outcomes], "tab:green"),
        "failure": (values[~outcomes], "tab:red"),
        "object not there": (absent, "0.6"),
    }
    every = np.concatenate([values, absent])
    bins = np.linspace(every.min(), every.max() + 1e-6, 25)
    left.hist(
        [found for found, _ in kinds.values()],
        bins,
        label=list(kinds),
        color=[color for _, color in kinds.values()],
        stacked=True,
    )
    for name, style in {"scene": "--", "all": ":"}.items():
        if summary[name]["threshold"] is not None:
            left.axvline(
                summary[name]["threshold"], color="black", linestyle=style, label=f"threshold ({SETS[name]})"
            )
    left.set(xlabel="value before acting", ylabel="test pairs of state and instruction")
    left.legend(fontsize=7)
    for axes, key in zip(right, SETS):
        for name, method in methods.items():
            values, outcomes, _ = affordances.chosen(method["pairs"], "test", absent=key == "all")
            if not outcomes.any():
                continue
            _, recall, precision = detection.curve(values, outcomes)
            (line,) = axes.plot(
                recall,
                precision,
                drawstyle="steps-pre",
                label=f"{name} (AP {method[key]['average_precision']:.2f})",
            )
            axes.axhline(outcomes.mean(), color=line.get_color(), linestyle=":", linewidth=1)
            if method[key]["threshold"] is not None and method[key]["test"]["precision"] is not None:
                axes.plot(
                    method[key]["test"]["recall"],
                    method[key]["test"]["precision"],
                    "o",
                    color=line.get_color(),
                )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall", ylabel="precision")
        axes.set_title(SETS[key], fontsize=9)
        if axes.lines:
            axes.legend(fontsize=7, loc="lower left")
    return figure_uri(drawing)


def table(methods: dict[str, dict[str, Any]]) -> str:
    """The test states' numbers, a line a method and set of instructions."""
    width = max(12, *map(len, methods)) + 2
    wide, narrow = (
        lambda cells, size=size: "".join(f"{text:>{size}}" for text in cells) for size in (20, 12)
    )

    def line(name, words, scores, *rest):
        return f"{name:{width}}{words:14}{wide(scores)}{narrow(rest)}"

    lines = [
        line(
            "affordances",
            "instructions",
            ("precision", "recall", "F1"),
            "always yes",
            "threshold",
            "successes",
        )
    ]
    for name, method in methods.items():
        for key, words in SETS.items():
            row = method[key]
            scores = [cell(row["test"], score) for score in ("precision", "recall", "f1")]
            successes = f"{row['test']['successes']} of {row['test']['pairs']}"
            lines.append(
                line(name, words, scores, number(row["always"]), number(row["threshold"]), successes)
            )
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def cell(test: dict[str, Any], score: str) -> str:
    """A score with its interval."""
    interval = test.get("intervals", {}).get(score)
    return number(test.get(score)) + (" [{:.2f}, {:.2f}]".format(*interval) if interval else "")
