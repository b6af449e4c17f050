"""Matplotlib without a screen, and figures and other files as data URIs for a page of one file."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend is chosen first)

__all__ = ["figure_uri", "grid", "plt", "uri"]


def uri(data: bytes, kind: str) -> str:
    """Returns the data as a URI that a page can hold; `kind` is its media type, such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def figure_uri(figure: Any) -> str:
    """Draws a figure as a PNG, closes it, and returns the PNG's data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return uri(buffer.getvalue(), "image/png")


def grid(count: int, width: float, height: float, columns: int = 4) -> tuple[Any, list[Any]]:
    """Makes a figure of `count` axes, so many in a row at most, each of this size in inches; returns both."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for unused in axes.flat[count:]:
        unused.axis("off")
    return figure, list(axes.flat[:count])
