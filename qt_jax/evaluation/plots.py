"""The report's figures and videos, as data URIs that a page holds inline."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from qt_jax.figures import figure_uri, grid, plt, uri

VIDEO_FPS = 8
MOST_COLUMNS = 8
"""Dims beside each other; those of a long chunk go on below."""


def success_bars(groups: dict[str, dict[str, Any]], tasks: list[str]) -> str:
    """Draws the success of each method in each task as grouped bars.

    Args:
        groups: {method: {task: row with "success", and with "low" and "high" where there is an interval}}.
        tasks: in the order of the bars.

    """
    figure, axes = plt.subplots(figsize=(max(6, 1.6 * len(tasks)), 3.2))
    width = 0.8 / len(groups)
    for k, (name, rows) in enumerate(groups.items()):
        x = np.arange(len(tasks)) + (k - (len(groups) - 1) / 2) * width
        heights = np.asarray([rows[t]["success"] for t in tasks])
        low = heights - [rows[t].get("low", rows[t]["success"]) for t in tasks]
        high = np.asarray([rows[t].get("high", rows[t]["success"]) for t in tasks]) - heights
        axes.bar(x, heights, width * 0.92, yerr=np.clip([low, high], 0, None), label=name, capsize=2)
    axes.set_xticks(range(len(tasks)), tasks, rotation=20 if len(tasks) > 4 else 0)
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("success (95% Wilson)")
    # Above the axes, since bars may reach the top.
    axes.legend(fontsize=8, ncols=len(groups), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure_uri(figure)


def curves(records: list[dict[str, float]], panels: dict[str, dict[str, str]]) -> str | None:
    """Draws metrics over steps; None if none of them occurs.

    Args:
        records: lines of metrics.jsonl.
        panels: {title: {metric: its label}}; what does not occur is left out.

    """
    recorded: set[str] = set().union(*records)
    present = {title: [name for name in lines if name in recorded] for title, lines in panels.items()}
    present = {title: names for title, names in present.items() if names}
    if not present:
        return None
    figure, axes = grid(len(present), 3.2, 2.3)
    for axis, (title, names) in zip(axes, present.items()):
        for name in names:
            points = [(record["step"], record[name]) for record in records if name in record]
            axis.plot(*zip(*points), label=panels[title][name], marker="." if len(points) < 12 else None)
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=7)
    return figure_uri(figure)


def value_over_time(chosen: np.ndarray, dims: tuple[str, ...], label: str) -> str:
    """Draws the score of the chosen bin of each dim over the decisions, [T, D]."""
    figure, axes = plt.subplots(figsize=(4.2, 2.2))
    for i, name in enumerate(dims):
        axes.plot(chosen[:, i], label=name)
    axes.set_xlabel("decision")
    axes.set_ylabel(label)
    axes.legend(fontsize=7)
    return figure_uri(figure)


def scores_over_bins(
    scores: np.ndarray, dims: tuple[str, ...], label: str, behaviour: np.ndarray | None = None
) -> str:
    """Draws a heat map for each dim, bins upwards and decisions to the right.

    Args:
        scores: [T, D, N]; bins that do not exist stay white.
        dims: names of the D dims.
        label: what the scores are, such as "Q".
        behaviour: [T, D, N], how probable bins are by the behaviour head: maps of their own below.

    """
    maps = {label: np.where(np.isfinite(scores), scores, np.nan)}
    if behaviour is not None:
        maps["behaviour"] = np.where(behaviour > 0, behaviour, np.nan)
    columns = min(MOST_COLUMNS, len(dims))
    rows = -(-len(dims) // columns)
    figure, axes = plt.subplots(
        rows * len(maps),
        columns,
        figsize=(2.6 * columns, 2.2 * rows * len(maps)),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (kind, values) in enumerate(maps.items()):
        for i, name in enumerate(dims):
            # The maps of a row of dims lie below each other.
            axis = axes[i // columns * len(maps) + number, i % columns]
            axis.axis("on")
            picture = axis.imshow(values[:, i].T, aspect="auto", origin="lower", interpolation="nearest")
            figure.colorbar(picture, ax=axis)
            axis.set_title(name, fontsize=9)
            axis.set_xlabel("decision", fontsize=8)
            if not i % columns:
                axis.set_ylabel(f"{kind}: bin", fontsize=8)
    return figure_uri(figure)


def video(frames: list[np.ndarray]) -> tuple[str, bytes]:
    """Encodes uint8 [H, W, 3] frames as an H.264 mp4, returned as a data URI and as bytes."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "video.mp4"
        # ffmpeg is started by exec at once, which JAX's threads allow.
        warnings.filterwarnings("ignore", r"os\.fork", RuntimeWarning)
        iio.imwrite(path, np.stack(frames), fps=VIDEO_FPS, codec="libx264", macro_block_size=2)
        data = path.read_bytes()
    return uri(data, "video/mp4"), data
