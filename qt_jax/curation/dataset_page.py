"""One self-contained HTML page about a dataset: its numbers, its actions against the bins, and episodes of
each kind.
"""

from __future__ import annotations

from pathlib import Path

import jinja2

from qt_jax.curation import dataset_plots, dataset_summary
from qt_jax.curation.dataset_summary import Summary
from qt_jax.curation.shown_episodes import Shown
from qt_jax.data.mixture import Source


def render(source: Source, found: Summary, shown: list[Shown], image_size: tuple[int, int]) -> str:
    """The page.

    Args:
        image_size: of the network's images.

    """
    template = jinja2.Template(
        (Path(__file__).parent / "templates" / "dataset.html").read_text(), autoescape=True
    )
    episodes = [
        {
            "shown": one,
            "sheets": {camera: dataset_plots.sheet(one, camera, image_size) for camera in one.episode.images},
            "curves": dataset_plots.curves(one, source.action),
        }
        for one in shown
    ]
    return template.render(
        found=found,
        labels=dataset_summary.LABELS,
        top=dataset_summary.TOP,
        rates=dataset_summary.rates(found),
        rewards=dataset_summary.rewards(found),
        discounted=dataset_summary.discounted(found),
        outside=dataset_summary.outside(found),
        cameras=source.spec.observation.cameras,
        stored_size=source.spec.observation.image_size,
        image_size=image_size,
        lengths=dataset_plots.lengths(found.lengths),
        actions=dataset_plots.actions(found.actions),
        episodes=episodes,
    )
