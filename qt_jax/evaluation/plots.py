"""The report's figures and videos, as data URIs that a page holds inline."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from qt_jax.figures import figure_uri, plt, uri

VIDEO_FPS = 8


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


def learning_curves(records: list[dict[str, float]], names: list[str]) -> str:
    """Draws a panel for each metric that occurs, with training and validation.

    Args:
        records: lines of metrics.jsonl.
        names: of metrics, without "train/" or "validation/".

    """
    recorded = set().union(*records)
    present = [name for name in names if {f"train/{name}", f"validation/{name}"} & recorded]
    columns = min(4, len(present))
    rows = -(-len(present) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 2.3 * rows), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, present):
        for prefix in ("train", "validation"):
            points = [(r["step"], r[f"{prefix}/{name}"]) for r in records if f"{prefix}/{name}" in r]
            if points:
                axis.plot(*zip(*points), label=prefix, marker="." if len(points) < 12 else None)
        axis.set_title(name, fontsize=9)
        axis.legend(fontsize=7)
    for axis in axes.flat[len(present) :]:
        axis.axis("off")
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
        behaviour: [T, D, N], how probable bins are by the behaviour head: a second row of maps.

    """
    rows = {label: np.where(np.isfinite(scores), scores, np.nan)}
    if behaviour is not None:
        rows["behaviour"] = np.where(behaviour > 0, behaviour, np.nan)
    figure, axes = plt.subplots(
        len(rows), len(dims), figsize=(2.6 * len(dims), 2.2 * len(rows)), layout="constrained", squeeze=False
    )
    for line, (kind, values) in zip(axes, rows.items()):
        for i, axis in enumerate(line):
            picture = axis.imshow(values[:, i].T, aspect="auto", origin="lower", interpolation="nearest")
            figure.colorbar(picture, ax=axis)
        line[0].set_ylabel(f"{kind}: bin", fontsize=8)
    for i, name in enumerate(dims):
        axes[0, i].set_title(name, fontsize=9)
        axes[-1, i].set_xlabel("decision", fontsize=8)
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
