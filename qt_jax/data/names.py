"""Short names of cameras and vectors, from the keys of other tools' files."""

from __future__ import annotations

from collections.abc import Iterable

from qt_jax.errors import UserError


def short_names(keys: Iterable[str], separator: str, reserved: str = "") -> dict[str, str]:
    """Returns {name: key}: names as short as they can be, of the last parts of each key joined by "_".

    Args:
        keys: such as "observation.images.front".
        separator: between the parts of a key.
        reserved: a name that is not used.

    Raises:
        UserError: if two keys differ in their separators alone.
    """
    parts = {key: key.split(separator) for key in keys}
    counts = dict.fromkeys(parts, 1)
    while True:
        groups: dict[str, list[str]] = {}
        for key, count in counts.items():
            groups.setdefault("_".join(parts[key][-count:]), []).append(key)
        alike = [key for name, group in groups.items() if len(group) > 1 or name == reserved for key in group]
        if not alike:
            return {name: key for name, (key,) in groups.items()}
        longer = [key for key in alike if counts[key] < len(parts[key])]
        if not longer:
            raise UserError(f"The keys {alike} would have one name, or that of another input; rename them.")
        for key in longer:
            counts[key] += 1
