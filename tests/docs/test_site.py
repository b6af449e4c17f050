"""What the site makes of docstrings; `make docs` builds it, with a warning an error."""

import runpy

from tests.conftest import ROOT

DOCSTRING = """Weighs |u| ** 2 by `*bar`: see `Segment`.

tokens: int32 [B, S, D],
    of `x` | the action

Args:
    u: a number, `a | b`.

Returns:
    "key": its value.
"""
PAGE = """Weighs \\|u\\| \\*\\* 2 by ``*bar``: see :py:obj:`.Segment`.

.. code-block:: text

    tokens: int32 [B, S, D],
        of `x` | the action

:param u: a number, ``a | b``.

:returns: *"key"* -- its value.
"""


def test_docstrings_are_read_as_they_are_written():
    lines = DOCSTRING.split("\n")
    runpy.run_path(str(ROOT / "docs" / "conf.py"))["from_markdown"](None, "function", "f", None, None, lines)
    assert "\n".join(lines) == PAGE
