"""`make imports`: what each room of the package imports, how often, and which rooms are in a circle.

A room is a folder of qt_jax, or a file beside the folders.
"""

from __future__ import annotations

import itertools
from collections import Counter

import grimp


def main() -> None:
    graph = grimp.build_graph("qt_jax", exclude_type_checking_imports=True)
    rooms = sorted(graph.find_children("qt_jax"))
    counts = {room: imports(graph, room) for room in rooms}
    for room in rooms:
        graph.squash_module(room)
    circles = [
        f"{short(one)} <-> {short(other)}"
        for one, other in itertools.combinations(rooms, 2)
        if graph.chain_exists(one, other) and graph.chain_exists(other, one)
    ]

    for room, imported in counts.items():
        listed = [f"{name} {count}" for name, count in sorted(imported.items())]
        print(f"{short(room)}: {', '.join(listed) or 'nothing'}")
    arrows = sum(len(imported) for imported in counts.values())
    print(f"{len(rooms)} rooms, {arrows} arrows, circles: {', '.join(circles) or 'none'}")


def imports(graph: grimp.ImportGraph, room: str) -> Counter[str]:
    """Counts by imported room how often a module of this room imports a module of it."""
    imported = Counter(
        short(other)
        for module in {room} | graph.find_descendants(room)
        for other in graph.find_modules_directly_imported_by(module)
    )
    del imported[short(room)]
    return imported


def short(module: str) -> str:
    """Returns the name of a module's room."""
    return module.split(".")[1] if "." in module else module


if __name__ == "__main__":
    main()
