"""The scripts that launchers fill in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)
_FOLDER.filters["quote"] = shlex.quote


def _directive(value: str) -> str:
    """A value as sbatch reads it in a line of the script: unlike a shell, it takes # for a comment within
    quotes too, and \\ for an escape.
    """
    return '"' + re.sub(r'([\\"#])', r"\\\1", value) + '"'


_FOLDER.filters["directive"] = _directive


def render(template: str, /, **values: Any) -> str:
    return _FOLDER.get_template(template).render(values)
