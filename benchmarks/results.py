"""Where results are kept, and the runs in a file of them: a JSON line a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ALL = Path("experiments/results")
METAWORLD = ALL / "metaworld"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add(file: Path, row: dict[str, Any]) -> None:
    """At once, so that what is done stays when the runs after it are stopped."""
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")
