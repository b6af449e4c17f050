"""`collect`: the simulator's episodes as an RLDS dataset at config.data.path."""

from __future__ import annotations

from typing import Any

from qt_jax.curation.collect import collect


def main(config: Any) -> None:
    """Collects the dataset, and prints how many episodes of each kind it has."""
    found = collect(config)
    share = ""
    if found.episodes:
        share = f", {found.successes.total() / found.episodes.total():.0%} successful"
    print(f"{found.path}: {found.planned} episodes{share}")
    for (task, collector), total in sorted(found.episodes.items()):
        success = found.successes[task, collector] / total
        print(f"  {task:28}{collector:18}{total:5} episodes  {success:6.0%} successful")
