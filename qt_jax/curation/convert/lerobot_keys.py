"""What becomes of each feature of a LeRobot dataset, and how flags list its episodes."""

from __future__ import annotations

from typing import Any

from qt_jax.curation.convert import keys
from qt_jax.curation.convert.keys import Key
from qt_jax.curation.convert.parts import Words
from qt_jax.curation.convert.settings import Settings
from qt_jax.data import lerobot_meta
from qt_jax.data.lerobot_meta import Metadata

_OWN = {"timestamp": "the time of each step", "episode_index": "the episode"}
_KNOWN = {
    "frame_index": "the rows stand in their order",
    "index": "the rows stand in their order",
    "next.done": "an episode ends with its rows",
    "task_index": "--instruction is given",
}
"""{feature: why nobody needs it}."""


def of(given: Settings, layout: Any, metadata: Metadata, refused: dict[str, str]) -> list[Key]:
    """Returns what becomes of each feature, and of columns that are none.

    Args:
        given: of the conversion.
        layout: the `lerobot_episode.Layout`.
        metadata: of the dataset.
        refused: {key: why} of images that cannot be used.
    """
    state = keys.places("state", ((key, layout.dims[key]) for key in layout.state))
    action = keys.action([(key, layout.dims[key]) for key in layout.action])

    def row(name: str, feature: dict[str, Any]) -> Key:
        roles = [f"camera {layout.cameras[name]}"] if name in layout.cameras else []
        roles += [state[name]] if name in state else []
        roles += [_OWN[name]] if name in _OWN else []
        roles += ["the instruction"] if name == "task_index" and not given.instruction else []
        roles += keys.roles(given, name, action, layout.success)
        return keys.described(name, _holds(feature), roles, why_not(name, feature))

    def why_not(name: str, feature: dict[str, Any]) -> str:
        if lerobot_meta.is_image(feature):
            return refused.get(name, "--cameras leaves it out")
        if feature["dtype"] == "string":
            return "text"
        return _KNOWN.get(name) or keys.why_no_number(given, name, lerobot_meta.is_vector(name, feature))

    undeclared = "meta/info.json does not declare it"
    return [
        *(row(name, feature) for name, feature in metadata.features.items()),
        *(keys.described(name, "", [], undeclared) for name in lerobot_meta.undeclared(metadata)),
    ]


def possible(metadata: Metadata) -> list[Key]:
    """Returns what each feature may become, for a dataset that cannot be converted as it is asked for."""

    def row(name: str, feature: dict[str, Any]) -> Key:
        known = {**_OWN, "task_index": "the instruction"}
        if name in known:
            return keys.described(name, _holds(feature), [known[name]], "")
        image, vector = lerobot_meta.is_image(feature), lerobot_meta.is_vector(name, feature)
        refused = lerobot_meta.why_unusable(name, feature) if image else ""
        return keys.possible(
            name,
            _holds(feature),
            refused or _KNOWN.get(name, "text"),
            camera=image and not refused,
            action=vector,
            state=vector,
            number=is_mark(name, feature),
        )

    return [row(name, feature) for name, feature in metadata.features.items()]


def is_mark(key: str, feature: dict[str, Any]) -> bool:
    """Returns whether it has one number a row, which may say success, a reward or who acted."""
    return lerobot_meta.is_number(feature) and key not in {*lerobot_meta.OWN} - {"next.done"}


def _holds(feature: dict[str, Any]) -> str:
    return f"{feature['dtype']} {' x '.join(map(str, feature['shape']))}"


def words(numbers: set[int]) -> Words:
    """Returns how flags list the episodes `numbers`: by number, or as a range without its end.

    A range that ends after the last episode is an unknown one: the copy may be cut short.
    """
    after = max(numbers, default=-1) + 1

    def find(word: str) -> set[int]:
        start, colon, stop = word.partition(":")
        if not (start + stop).isdigit() or int(stop or 0) > after:
            return set()
        if not colon:
            return numbers & {int(start)}
        return {number for number in numbers if int(start or 0) <= number < int(stop or number + 1)}

    return Words("splits", "0:40,52", find)
