"""Agents, encoders and simulator suites of a user's own, which a config names by module."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from qt_jax.errors import UserError


def find(setting: str, name: str, known: Mapping[str, Any], needs: Iterable[str] = ()) -> Any:
    """Returns what a setting names: a known object, or one of a user's own file.

    Args:
        setting: what is set, for messages, such as "config.agent.name".
        name: its value: a key of `known`, "module:name" of a user's file, or "module" for the module itself.
        known: the objects of this project by name.
        needs: attributes that a user's own object must have.

    Raises:
        UserError: if the name is not known, its module cannot be imported, or the object lacks an attribute.

    """
    if name in known:
        return known[name]

    module, _, attribute = name.partition(":")
    expected = (
        f"{setting} is {name!r}; expected one of {', '.join(known)}, or 'module:name' of a file of yours"
    )
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise UserError(
                f"{setting} is {name!r}: {module} needs {error.name}, which is not installed.",
                topic="missing-package",
            ) from error
        given = f"{setting} is {name!r}" if {":", "."} & set(name) else expected
        raise UserError(
            f"{given}; there is no file {module.replace('.', '/')}.py in the directory that you start from "
            "or on PYTHONPATH. Start where it is, or add its directory to PYTHONPATH."
        ) from error
    except (ValueError, TypeError) as error:  # not the name of a module
        raise UserError(f"{expected}.") from error
    except Exception as error:
        raise UserError(
            f"{setting} is {name!r}: {module} cannot be imported ({type(error).__name__}: {error})."
        ) from error

    if attribute:
        if not hasattr(found, attribute):
            raise UserError(
                f"{setting} is {name!r}; {getattr(found, '__file__', None) or module} has no {attribute!r}."
            )
        found = getattr(found, attribute)
    if missing := [need for need in needs if not hasattr(found, need)]:
        raise UserError(f"{expected}; {name!r} lacks {', '.join(missing)}.")
    return found
