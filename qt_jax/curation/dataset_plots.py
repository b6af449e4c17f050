"""Draws the pictures of a dataset's page, as data URIs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image

from qt_jax import discretization
from qt_jax.curation.dataset_summary import ActionDim
from qt_jax.curation.shown_episodes import Shown
from qt_jax.data.images import decode
from qt_jax.data.video import Clip
from qt_jax.errors import first_line
from qt_jax.figures import figure_uri, grid, plt, uri
from qt_jax.preprocess import resize
from qt_jax.specs import ActionSpec

FRAMES = 10
"""How many frames of an episode are shown, the first and the last among them."""
_LONGEST_SIDE = 200
_BLUE, _RED, _GREY, _ORANGE, _GREEN = "#2b6cb0", "#b3261e", "#999", "#dd6b20", "#187a2f"


def lengths(values: np.ndarray) -> str:
    """Draws a histogram of the episodes' lengths, [episodes]."""
    figure, axis = plt.subplots(figsize=(4.4, 2), layout="constrained")
    edges = np.linspace(values.min() - 0.5, values.max() + 0.5, min(40, int(np.ptp(values)) + 1) + 1)
    axis.hist(values, bins=edges.tolist(), color=_BLUE, rwidth=0.9)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("length (transitions)", fontsize=8)
    axis.set_ylabel("episodes", fontsize=8)
    axis.tick_params(labelsize=7)
    return figure_uri(figure)


def actions(dims: list[ActionDim]) -> str:
    """Draws a panel a dim: the share of sampled actions in each bin.

    Those beyond the bounds, which go to the edge bins, are red.
    """
    figure, axes = _panels(len(dims), 2.0)
    for axis, dim in zip(axes, dims):
        total, width = dim.counts.sum(), (dim.high - dim.low) / dim.bins
        shares = dim.counts / total
        shares[0], shares[-1] = max(0, shares[0] - dim.below), max(0, shares[-1] - dim.above)
        centres = dim.low + (np.arange(dim.bins) + 0.5) * width
        axis.bar(centres, shares, width * (0.9 if dim.bins <= 64 else 1.0), color=_BLUE)
        if dim.below or dim.above:
            seen = max(width, 0.015 * (dim.high - dim.low))
            axis.bar(centres[[0, -1]], [dim.below, dim.above], seen, bottom=shares[[0, -1]], color=_RED)
        axis.set_xlim(dim.low - 0.02 * (dim.high - dim.low), dim.high + 0.02 * (dim.high - dim.low))
        axis.set_title(f"{dim.name}: {dim.used} of {dim.bins} bins", fontsize=8)
    return figure_uri(figure)


def curves(shown: Shown, action: ActionSpec, spaces: Mapping[str, Any]) -> str:
    """Draws each action dim over the steps, with its bounds, then reward and return, then values of `score`.

    Values that are clipped at a bound are red. What the state did is orange: where it was after an absolute
    action, and how far it moved after a delta. Steps of a person are green, where the data say so.

    Args:
        shown: the episode.
        action: the dims, with their bounds.
        spaces: {dim: which entry of the state it moves, and how}, as the dataset's metadata has it.
    """
    episode, steps = shown.episode, np.arange(shown.episode.length)
    figure, axes = _panels(action.dims + 1 + bool(shown.values), 1.5)
    clipped = np.logical_or(*discretization.beyond(action, episode.actions))
    dims = zip(action.names, action.low, action.high, episode.actions.T, clipped.T)
    for axis, (name, low, high, values, outside) in zip(axes, dims):
        axis.axhline(low, color=_GREY, lw=0.7, ls="--")
        axis.axhline(high, color=_GREY, lw=0.7, ls="--")
        if episode.intervention is not None:
            spans = [(step - 0.5, 1.0) for step in np.flatnonzero(episode.intervention)]
            axis.broken_barh(spans, (low, high - low), color=_GREEN, alpha=0.2)
        axis.plot(steps, values, color=_BLUE, lw=1, marker="." if episode.length < 40 else None, ms=4)
        axis.plot(steps[outside], values[outside], ".", color=_RED, ms=5)
        space = spaces.get(name)
        if space and space["state"] < episode.state.shape[1]:  # a spec may ignore the state
            state = episode.state[:, space["state"]]
            did = np.diff(state) / space["unit"] if space["space"] == "delta" else state[1:]
            axis.plot(np.arange(len(did)), did, color=_ORANGE, lw=1.5, ls=":")
            name = f"{name}: {space['space']}, state {space['state']}"
        axis.set_title(name, fontsize=8)

    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    outcome = axes[action.dims]
    outcome.plot(steps, shown.returns, color=_GREY, lw=1, label="return")
    outcome.plot(steps, episode.rewards, color=_RED, lw=0, marker=".", ms=4, label="reward")
    outcome.set_title("reward, return", fontsize=8)
    outcome.legend(fontsize=6, loc="best")
    if shown.values:
        for name, color in (("q", _BLUE), ("value", _ORANGE), ("success_probability", _GREY)):
            axes[-1].plot(steps, shown.values[name], color=color, lw=1, label=name.replace("_", " "))
        axes[-1].set_title("values, held out", fontsize=8)
        axes[-1].legend(fontsize=6, loc="best")
    return figure_uri(figure)


class Picture(NamedTuple):
    """A frame of an episode, or why it does not decode: `uri` or `problem` is empty."""

    step: int
    uri: str
    problem: str


def sheets(shown: Shown, size: tuple[int, int]) -> dict[str, list[Picture]]:
    """Returns {camera: its `sheet`}."""
    return {camera: sheet(shown, camera, size) for camera in shown.episode.images}


def sheet(shown: Shown, camera: str, size: tuple[int, int]) -> list[Picture]:
    """Returns pictures at even distances.

    They have the network's `size` (height, width), or less where that is large.
    """
    encoded = shown.episode.images[camera]
    scale = min(1.0, _LONGEST_SIDE / max(size))
    shown_size = (round(size[0] * scale), round(size[1] * scale))
    chosen = np.unique(np.linspace(0, len(encoded) - 1, FRAMES).round().astype(int))
    return [_picture(int(step), encoded[step], shown_size) for step in chosen]


def _picture(step: int, encoded: bytes | Clip, size: tuple[int, int]) -> Picture:
    try:
        image = decode(encoded)
    except Exception as error:  # Pillow's are of many kinds
        return Picture(step, "", first_line(error))
    return Picture(step, _jpeg(resize(image, size)), "")


def _jpeg(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="jpeg", quality=90)
    return uri(buffer.getvalue(), "image/jpeg")


def _panels(count: int, height: float) -> tuple[Any, list[Any]]:
    figure, axes = grid(count, 2.3, height, columns=5 if count < 11 else 6)
    for axis in axes:
        axis.tick_params(labelsize=6)
    return figure, axes
