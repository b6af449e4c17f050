"""How an agent says what its settings must be."""

from __future__ import annotations

from collections.abc import Callable

Require = Callable[[bool, str, str], None]
"""Collects what is wrong: (whether a setting is right, its name below `config`, what is expected) -> None."""
