"""Shows what is in datasets: a text and a page of each, and a Rerun recording of the episodes shown."""

from __future__ import annotations

from collections.abc import Iterator

from etils import epath

from qt_jax.curation import dataset_page, dataset_rerun, dataset_summary, shown_episodes
from qt_jax.data.loader import Recipe


def inspect(
    recipe: Recipe, folder: epath.Path, episodes: int, recording: dataset_rerun.Recording | None
) -> Iterator[str]:
    """Writes NAME.html of each dataset of a mixture, and yields its summary as a text for a terminal.

    Args:
        recipe: what training reads.
        folder: where the pages go; made if it is not there.
        episodes: how many of each kind are shown.
        recording: gets the shown episodes too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in recipe.mixture.sources:
        found = dataset_summary.summary(recipe, source)
        shown = shown_episodes.read(recipe, source, episodes)
        page = folder / f"{source.name}.html"
        page.write_text(
            dataset_page.render(source, found, shown, recipe.mixture.interface.observation.image_size)
        )
        if recording is not None:
            for one in shown:
                recording.add(source.name, one, source.action)
        yield f"{dataset_summary.text(found).rstrip()}\n  page: {page}\n"
