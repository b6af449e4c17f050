"""Renders a dataset as one HTML page: its numbers, its actions in bins, and episodes of each kind."""

from __future__ import annotations

from pathlib import Path

import jinja2

from qt_jax.curation import dataset_plots, dataset_summary
from qt_jax.curation.dataset_plots import Picture
from qt_jax.curation.dataset_summary import Summary
from qt_jax.curation.shown_episodes import Shown
from qt_jax.data.mixture import Source


def render(
    source: Source,
    found: Summary,
    shown: list[Shown],
    sheets: list[dict[str, list[Picture]]],
    image_size: tuple[int, int],
) -> str:
    """Returns the page.

    Args:
        source: the dataset as the mixture has it.
        found: its numbers.
        shown: the episodes to show.
        sheets: `dataset_plots.sheets` of each.
        image_size: (height, width) of the network's images.
    """
    template = (Path(__file__).parent / "templates" / "dataset.html").read_text()
    spaces = source.directory.metadata.get("action_space", {})
    episodes = []
    for one, pictures in zip(shown, sheets, strict=True):
        curves = dataset_plots.curves(one, source.action, spaces)
        episodes.append({"shown": one, "sheets": pictures, "curves": curves})
    return jinja2.Template(template, autoescape=True).render(
        found=found,
        labels=dataset_summary.LABELS,
        top=dataset_summary.TOP,
        people=dataset_summary.people(found),
        ages=dataset_summary.ages(found),
        rates=dataset_summary.rates(found),
        rewards=dataset_summary.rewards(found),
        discounted=dataset_summary.discounted(found),
        outside=dataset_summary.outside(found),
        cameras=source.spec.observation.cameras,
        stored_sizes=[source.spec.stored_size(camera) for camera in source.spec.observation.cameras],
        image_size=image_size,
        spaces=spaces,
        lengths=dataset_plots.lengths(found.lengths),
        actions=dataset_plots.actions(found.actions),
        episodes=episodes,
    )
