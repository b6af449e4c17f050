"""What `affordances` found, as text, as a picture, as a page, and as a part of the run's report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from etils import epath

from qt_jax.evaluation import detection
from qt_jax.evaluation.figures import figure_uri, plt

TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
_PART = re.compile("<!-- affordances -->.*<!-- end of affordances -->", re.DOTALL)


def write(folder: epath.Path, summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> epath.Path:
    """`affordances.html` and, last, `affordances.json` of a run; the report too, if it is there. Returns the page's path.

    Args:
        methods: {name: summary} of this and other runs, side by side.
    """
    page = TEMPLATES.get_template("affordances.html").render(
        title=f"Affordances of {summary['method']}", summary=summary, methods=methods, figure=figure(summary, methods)
    )
    path = folder / "affordances.html"
    path.write_text(page)
    insert(folder)
    (folder / "affordances.json").write_text(json.dumps(summary, indent=1) + "\n")
    return path


def insert(folder: epath.Path) -> None:
    """Shows the run's `affordances.html` in its `report.html` where it has both, in place of what was shown."""
    source, target = folder / "affordances.html", folder / "report.html"
    if source.exists() and target.exists():
        (part,) = _PART.findall(source.read_text())
        target.write_text(_PART.sub(lambda _: part, target.read_text()))


def figure(summary: dict[str, Any], methods: dict[str, dict[str, Any]]) -> str:
    """The values of the test pairs by outcome with the threshold, and precision over recall of each method. A data URI."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    values, outcomes = _test(summary)
    bins = np.linspace(values.min(), values.max() + 1e-6, 21) if len(values) else 1
    left.hist([values[outcomes], values[~outcomes]], bins, label=["success", "failure"], color=["tab:green", "tab:red"], stacked=True)
    if summary["threshold"] is not None:
        left.axvline(summary["threshold"], color="black", linestyle="--", label="threshold")
    left.set_xlabel("value before acting")
    left.set_ylabel("state and instruction pairs")
    left.legend(fontsize=8)
    for name, method in methods.items():
        values, outcomes = _test(method)
        if not outcomes.any():
            continue
        _, recall, precision = detection.curve(values, outcomes)
        (line,) = right.step(recall, precision, where="pre", label=f"{name} (AP {method['average_precision']:.2f})")
        right.axhline(outcomes.mean(), color=line.get_color(), linestyle=":", linewidth=1)
        if method["test"].get("precision") is not None:
            right.plot(method["test"]["recall"], method["test"]["precision"], "o", color=line.get_color())
    right.set(xlim=(0, 1.02), ylim=(0, 1.05), xlabel="recall (dot: at the threshold; dotted line: share of successes)", ylabel="precision")
    if right.lines:
        right.legend(fontsize=8, loc="lower left")
    return figure_uri(drawing)


def table(methods: dict[str, dict[str, Any]]) -> str:
    """The test states' numbers, a line a method."""
    width = max(12, *map(len, methods)) + 2
    head = "".join(f"{name:>20}" for name in ("precision", "recall", "F1"))
    lines = [f"{'affordances':{width}}{head}{'always yes: F1':>16}{'absent: yes':>13}{'threshold':>11}{'successes':>13}"]
    number = lambda x, form=".2f": "-" if x is None else format(x, form)
    for name, row in methods.items():
        cells = []
        for key in ("precision", "recall", "f1"):
            interval = row["test"].get("intervals", {}).get(key)
            cells.append(number(row["test"].get(key)) + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""))
        line = f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells) + f"{number(row['always']['f1']):>16}"
        line += f"{number(row['absent']['share'], '.0%'):>13}{number(row['threshold'], '.3f'):>11}"
        lines.append(line + f"{row['test']['successes']:>6} of {row['test']['pairs']:<3}")
    return "\n".join(lines)


def _test(summary: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in summary["pairs"] if row["split"] == "test" and row["success"] is not None and not row["done"]]
    return np.asarray([row["value"] for row in rows], float), np.asarray([row["success"] for row in rows], bool)
