"""The rounds as lines for a terminal, and as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import qt_jax.evaluation
from qt_jax.figures import figure_uri, grid, plt

PAGE = "improve.html"
_FOLDERS = [Path(module).parent / "templates" for module in (__file__, qt_jax.evaluation.__file__)]
_TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(_FOLDERS), autoescape=True)


def render(workdir: str, rows: list[dict[str, Any]]) -> str:
    """Returns the page.

    Args:
        workdir: the run that they began with.
        rows: of the table, as `rounds` makes them.

    """
    return _TEMPLATES.get_template("improve.html").render(
        workdir=workdir,
        rows=rows,
        tasks=sorted({task for row in rows for part in _parts(row) for task in part["tasks"]}),
        rate=rate,
        success=_success(rows),
        calibration=_calibration([row for row in rows if row.get("value")]),
    )


def line(row: dict[str, Any]) -> str:
    """Returns a round as a line for a terminal."""
    said = []
    if collected := row.get("collected"):
        count, trained_on = collected["overall"]["episodes"], collected["trained_on"]
        said.append(f"{count} episodes, {rate(collected['overall'])} successful")
        if not trained_on:
            said.append("none of which config.data.episodes keeps")
    if row["evaluation"]:
        said.append(f"{rate(row['evaluation']['overall'])} in evaluation")
    return f"round {row['round']}: {', '.join(said) or 'done'}"


def rate(row: dict[str, Any]) -> str:
    """Returns a success rate with its 95% Wilson interval, in words."""
    return f"{row['success']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"


def _parts(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in (row.get("collected"), row["evaluation"]) if part]


def _success(rows: list[dict[str, Any]]) -> str | None:
    """Draws success over the rounds, in evaluation and of the episodes collected; None: there is none yet."""
    if not any(map(_parts, rows)):
        return None
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    # The policy that collected in round r is that of round r - 1.
    lines = {
        "evaluation": [(row["round"], row["evaluation"]) for row in rows if row["evaluation"]],
        "collected with it": [(row["round"] - 1, row["collected"]) for row in rows if "collected" in row],
    }
    for name, points in lines.items():
        if not points:
            continue
        numbers, parts = zip(*points)
        success, low, high = (
            np.asarray([part["overall"][key] for part in parts]) for key in ("success", "low", "high")
        )
        errors = np.clip([success - low, high - success], 0, None)
        axis.errorbar(numbers, success, errors, marker="o", capsize=3, label=name)
    axis.set_xticks([row["round"] for row in rows])
    axis.set_xlabel("the policy after round")
    axis.set_ylabel("success (95% Wilson)")
    axis.set_ylim(0, 1.05)
    axis.legend(fontsize=8)
    return figure_uri(figure)


def _calibration(rows: list[dict[str, Any]]) -> str | None:
    """Draws for each round the return that followed over Q; None where there are no values."""
    if not rows:
        return None
    figure, axes = grid(len(rows), 2.6, 2.5)
    for axis, row in zip(axes, rows):
        q, returns, steps = np.asarray(row["value"]["bins"]).T
        ends = [min(q.min(), returns.min()), max(q.max(), returns.max())]
        axis.plot(ends, ends, color="#999", lw=0.8, ls="--")
        axis.plot(q, returns, lw=1, color="#2b6cb0")
        axis.scatter(q, returns, s=4 + 60 * steps / steps.max(), color="#2b6cb0")
        axis.set_title(f"round {row['round']}", fontsize=9)
        axis.set_xlabel("Q", fontsize=8)
        axis.set_ylabel("return that followed", fontsize=8)
    return figure_uri(figure)
