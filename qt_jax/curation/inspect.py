"""Shows what is in datasets: a text and a page of each, and a Rerun recording of the episodes shown."""

from __future__ import annotations

from collections.abc import Iterator

from etils import epath

from qt_jax.curation import (
    dataset_page,
    dataset_plots,
    dataset_rerun,
    dataset_summary,
    dataset_videos,
    shown_episodes,
)
from qt_jax.curation.dataset_plots import Picture
from qt_jax.curation.shown_episodes import Shown
from qt_jax.data import index as indices
from qt_jax.data.loader import Recipe
from qt_jax.data.mixture import Source


def inspect(
    recipe: Recipe,
    folder: epath.Path,
    episodes: int,
    recording: dataset_rerun.Recording | None,
    videos: bool = False,
) -> Iterator[str]:
    """Writes NAME.html of each dataset of a mixture, and yields its summary as a text for a terminal.

    Args:
        recipe: what training reads.
        folder: where the pages go; made if it is not there.
        episodes: how many of each kind are shown.
        recording: gets the shown episodes too.
        videos: whether folder/NAME gets a video of each shown episode and camera.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for source in recipe.mixture.sources:
        found = dataset_summary.summary(recipe, source)
        shown = shown_episodes.read(recipe, source, episodes)
        image_size = recipe.mixture.interface.observation.image_size
        sheets = [dataset_plots.sheets(one, image_size) for one in shown]
        page = folder / f"{source.name}.html"
        page.write_text(dataset_page.render(source, found, shown, sheets, image_size))
        if recording is not None:
            for one in shown:
                recording.add(source.name, one, source.action)
        lines = [dataset_summary.text(found).rstrip(), *damaged(source, shown, sheets)]
        if videos:
            beside = folder / source.name
            lines += [f"  damaged: {line}" for line in dataset_videos.write(shown, source.spec, beside)]
            lines.append(f"  videos: {beside}")
        lines.append(f"  page: {page}\n")
        yield "\n".join(lines)


def damaged(source: Source, shown: list[Shown], sheets: list[dict[str, list[Picture]]]) -> list[str]:
    """Returns a line for each file with images that do not decode, of those that are shown.

    Args:
        source: the dataset.
        shown: the episodes.
        sheets: `dataset_plots.sheets` of each.
    """
    first: dict[str, str] = {}
    for one, pictures in zip(shown, sheets, strict=True):
        shard, place = (int(source.index.columns[name][one.number]) for name in ("shard", "place"))
        for camera, row in pictures.items():
            file, _ = source.directory.lies(shard, place, camera)
            where = indices.where(source.directory, source.index, one.number, camera)
            for picture in row:
                if picture.problem:
                    line = f"{where}, step {picture.step}: image {camera!r}: {picture.problem}"
                    first.setdefault(file, f"  damaged: {line} (`validate` lists all)")
    return list(first.values())
