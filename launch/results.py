"""Shows a sweep's results: a table of its runs, and plots of a metric over its settings."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any

from launch.runs import Run
from qt_jax import storage
from qt_jax.errors import UserError

SUCCESS, LOSS = "success", "validation/loss"


def report(runs: Sequence[Run], metric: str = "") -> None:
    """Prints the table and writes table.md, table.csv and sweep.png into the sweep's directory.

    Args:
        runs: all runs of the sweep, finished or not.
        metric: one of metrics.jsonl, or `success` of the rollouts; empty: success if a run has one, else
            validation/loss.

    Raises:
        UserError: if no run has the metric yet.

    """
    found = [_measured(run) for run in runs]
    metric = metric or (SUCCESS if any(SUCCESS in values for values in found) else LOSS)
    if not any(metric in values for values in found):
        known = sorted({name for values in found for name in values})
        there = f"there are {', '.join(known)}" if known else "none has any metrics"
        raise UserError(f"No run of {len(runs)} has {metric!r} yet; {there}.")

    axes = list(dict.fromkeys(key for run in runs for key in run.overrides))
    header = [*axes, "step", metric, "workdir"]
    rows = []
    for run, values in zip(runs, found):
        settings, step = (
            [run.overrides.get(key, "") for key in axes],
            f"{run.step()}/{run.config.train.steps}",
        )
        rows.append([*settings, step, values.get(metric, ""), run.workdir])

    folder = storage.directory(os.path.dirname(runs[0].workdir))
    table = _markdown(header, rows)
    storage.replace_text(folder / "table.md", table)
    storage.replace_text(folder / "table.csv", _csv(header, rows))
    points = [(run.overrides, values[metric]) for run, values in zip(runs, found) if metric in values]
    storage.replace_bytes(folder / "sweep.png", plot(axes, points, metric))
    print(f"{table}\n{folder}/: table.md, table.csv, sweep.png")


def _measured(run: Run) -> dict[str, float]:
    """Returns the last value of each of a run's metrics, and the success of its rollouts over all tasks."""
    values: dict[str, float] = {}
    folder = storage.directory(run.workdir)
    for record in storage.json_lines(folder / "metrics.jsonl"):
        values |= {name: value for name, value in record.items() if name not in ("step", "time")}
    if (folder / "evaluation.json").exists():
        values[SUCCESS] = json.loads((folder / "evaluation.json").read_text())["overall"]["success"]
    return values


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    shown = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in rows]
    lines = [header, ["---"] * len(header), *shown]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()


def plot(axes: Sequence[str], points: Sequence[tuple[dict[str, Any], float]], metric: str) -> bytes:
    """Draws a panel for each setting: every run's metric, and the mean of the runs with the same value.

    Args:
        axes: the settings.
        points: (a run's overrides, its metric).
        metric: its name.

    Returns:
        A PNG.

    """
    from qt_jax.figures import plt

    figure, panels = plt.subplots(
        1, len(axes), figsize=(3.4 * len(axes), 3), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, axis in zip(panels[0], axes):
        groups: dict[Any, list[float]] = {}
        for overrides, value in points:
            groups.setdefault(overrides.get(axis), []).append(value)
        places = {setting: place for place, setting in enumerate(groups)}  # in the sweep's own order
        for setting, values in groups.items():
            panel.plot([places[setting]] * len(values), values, "o", color="tab:blue", alpha=0.5)
        means = [sum(values) / len(values) for values in groups.values()]
        panel.plot(list(places.values()), means, color="tab:orange", label="mean")
        panel.set_xticks(list(places.values()), [str(s) for s in places])
        panel.set_xlabel(axis)
    panels[0][0].set_ylabel(metric)
    panels[0][0].legend(fontsize=8)

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    plt.close(figure)
    return content.getvalue()
