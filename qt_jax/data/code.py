"""What functions do, as a digest: it changes with their code, that of what they call, and the constants they
use.

Followed are functions, classes and values of this project and of the functions' own packages; of libraries
the names count alone. Comments, docstrings, and whatever else stands in the same files change nothing.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import numpy as np

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_OF_CLASSES = (
    "__module__",
    "__dict__",
    "__weakref__",
    "__doc__",
    "__annotations__",
    "__firstlineno__",
    "__static_attributes__",
)


def digest(*roots: Any) -> str:
    """Of functions, or other callables, together."""
    walk = _Walk({_package(root) for root in roots} | {__name__.partition(".")[0]})
    for root in roots:
        walk.value(root)
    return walk.found.hexdigest()


class _Walk:
    """Goes through everything that is reached, each once."""

    def __init__(self, own: set[str]):
        self._own, self._seen, self.found = own, {}, hashlib.sha256()

    def _tell(self, *parts: Any) -> None:
        self.found.update(repr(parts).encode())

    def _is_own(self, module: str) -> bool:
        package = module.partition(".")[0]
        if package in self._own:
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is not None and not file.startswith(_LIBRARIES)

    def value(self, value: Any) -> None:
        """Tells of a value by what it is; of one that was told already, nothing new."""
        if isinstance(value, (str, bytes, int, float, complex, bool, type(None))):
            self._tell(value)
        elif isinstance(value, (tuple, frozenset)):  # of which equal ones may be one object, or not
            self._all(sorted(value, key=repr) if isinstance(value, frozenset) else value)
        elif id(value) in self._seen:
            self._tell("again")
        else:
            self._seen[id(value)] = value  # held, so that no other gets its id
            self._object(value)

    def _object(self, value: Any) -> None:
        kind = type(value)
        if isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._all((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords))
        elif isinstance(value, property):
            self._all((value.fget, value.fset))
        elif (
            wrapped := getattr(value, "__wrapped__", None)
            or getattr(value, "__func__", None)
            or getattr(value, "func", None)
        ):
            self.value(
                wrapped
            )  # of functools.cache and its like, static and class methods, cached properties
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, np.ndarray):
            self._tell(value.dtype.str, value.shape, value.tobytes())
        elif isinstance(value, (dict, types.MappingProxyType)):
            self._all(item for pair in value.items() for item in pair)
        elif isinstance(value, list):
            self._all(value)
        elif isinstance(value, set):
            self._all(sorted(value, key=repr))
        else:
            self._tell(kind.__module__, kind.__qualname__)
            if self._is_own(kind.__module__):
                self._all((kind, getattr(value, "__dict__", {})))

    def _all(self, values: Any) -> None:
        for value in values:
            self.value(value)
        self._tell("end")

    def _class(self, value: type) -> None:
        self._tell(value.__module__, value.__qualname__)
        if self._is_own(value.__module__):
            self._all(value.__bases__)
            for name, member in sorted(vars(value).items()):
                if name not in _OF_CLASSES and not name.startswith("__dataclass"):
                    self._tell(name)
                    self.value(member)

    def _function(self, value: types.FunctionType) -> None:
        if not self._is_own(value.__module__ or ""):
            self._tell(value.__module__, value.__qualname__)
            return
        self._all(
            (
                value.__defaults__,
                value.__kwdefaults__,
                [cell.cell_contents for cell in value.__closure__ or ()],
            )
        )
        names = self._code(value.__code__, value.__doc__, value.__globals__.get("__package__") or "")
        modules = []
        for name in names:
            used = value.__globals__.get(name)
            if isinstance(used, types.ModuleType):
                modules.append(used)
            elif name in value.__globals__:
                self._tell(name)
                self.value(used)
        for module in (
            modules
        ):  # which of a module's attributes are its functions' is not seen, so all names that it has count
            if self._is_own(module.__name__):
                self._all(
                    vars(module)[name]
                    for name in names
                    if name in vars(module) and name not in value.__globals__
                )

    def _code(self, code: types.CodeType, doc: str | None, package: str) -> list[str]:
        """Tells of the instructions; returns the names that they look up, those of inner functions too."""
        inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
        constants = [
            c
            for c in code.co_consts
            if not isinstance(c, types.CodeType) and not (doc is not None and c == doc)
        ]
        self._tell(code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames)
        self._all(constants)
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                self._import(instruction.argval, package)
        return [*code.co_names, *(name for one in inner for name in self._code(one, None, package))]

    def _import(self, name: str, package: str) -> None:
        """Tells of an own module that a function imports: of its file, since it may not be loaded yet."""
        for full in (name, f"{package}.{name}"):
            try:
                found = importlib.util.find_spec(full)
            except (ImportError, ValueError, AttributeError):
                continue
            if (
                found
                and found.origin
                and Path(found.origin).is_file()
                and not found.origin.startswith(_LIBRARIES)
            ):
                self._tell(full, Path(found.origin).read_bytes())


def _package(root: Any) -> str:
    root = getattr(root, "func", root)  # of a partial
    return (getattr(root, "__module__", None) or type(root).__module__).partition(".")[0]
