"""Where results are kept, and how their files are read and written: a JSON line a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ALL = Path("experiments/results")
METAWORLD = ALL / "metaworld"


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def existing(file: Path, field: str) -> list[dict[str, Any]]:
    """Reads a file that a user named, and requires this field in each row."""
    if not file.exists():
        known = sorted(str(path.relative_to(ALL)) for path in ALL.rglob("*.jsonl"))
        sys.exit(f"{file} does not exist; {ALL} has {', '.join(known)}.")
    found = rows(file)
    if without := sum(field not in row for row in found):
        sys.exit(f"{file} has {without} rows without {field!r}; expected a file of runs that were evaluated.")
    return found


def decoded(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lists the runs, and each again as it succeeded with each other way of deciding: "NAME by beam:4"."""
    found = []
    for run in runs:
        name, _, rest = run["run"].partition(",")
        ways = run.get("decoded", {}).items()
        found += [
            run,
            *(run | {"run": f"{name} by {way},{rest}", "success": success} for way, success in ways),
        ]
    return found


def add(file: Path, row: dict[str, Any]) -> None:
    """Adds a row at once, so that it stays when the runs after it are stopped."""
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")
