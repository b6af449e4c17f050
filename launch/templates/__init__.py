"""The scripts that launchers fill in, and how values get into them."""

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
    r"""Quotes a value for a line of #SBATCH.

    Unlike a shell, sbatch takes # for a comment within quotes too, and \ for an escape.
    """
    return '"' + re.sub(r'([\\"#])', r"\\\1", value) + '"'


_FOLDER.filters["directive"] = _directive


def render(template: str, /, **values: Any) -> str:
    """Returns a template of this folder with its values; a value that is missing is an error."""
    return _FOLDER.get_template(template).render(values)
