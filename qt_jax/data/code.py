"""A digest of what functions do; it changes with their code, what they call and the constants they use.

Functions, classes and values of this project and of the functions' own packages count with all they do, those
of libraries by name alone. Comments, docstrings and other code in the same files change nothing.
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
_IGNORED_MEMBERS = (
    "__module__",
    "__dict__",
    "__weakref__",
    "__doc__",
    "__annotations__",
    "__firstlineno__",
    "__static_attributes__",
)


def digest(*roots: Any) -> str:
    """Returns one SHA-256, in hexadecimal, of functions or other callables together."""
    walk = _Walk({_package(root) for root in roots} | {__name__.partition(".")[0]})
    for root in roots:
        walk.value(root)
    return walk.hash.hexdigest()


class _Walk:
    """Adds all that can be reached from a value to a hash, each object once."""

    def __init__(self, own: set[str]):
        self._own, self.hash = own, hashlib.sha256()
        self._seen: dict[int, Any] = {}

    def _add(self, *parts: Any) -> None:
        self.hash.update(repr(parts).encode())

    def _is_own(self, module: str) -> bool:
        package = module.partition(".")[0]
        if package in self._own:
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        return file is not None and not file.startswith(_LIBRARIES)

    def value(self, value: Any) -> None:
        """Adds a value by what it is; an object that was added before counts as a repetition."""
        if isinstance(value, (str, bytes, int, float, complex, bool, type(None))):
            self._add(value)
        elif isinstance(value, frozenset):
            self._all(sorted(value, key=repr))
        elif isinstance(value, tuple):  # before `_seen`: equal tuples may be one object, or not
            self._all(value)
        elif id(value) in self._seen:
            self._add("again")
        else:
            self._seen[id(value)] = value  # held, so that no other object gets its id
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
        elif wrapped := _wrapped(value):
            self.value(wrapped)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, np.ndarray):
            self._add(value.dtype.str, value.shape, value.tobytes())
        elif isinstance(value, (dict, types.MappingProxyType)):
            self._all(item for pair in value.items() for item in pair)
        elif isinstance(value, list):
            self._all(value)
        elif isinstance(value, set):
            self._all(sorted(value, key=repr))
        else:
            self._add(kind.__module__, kind.__qualname__)
            if self._is_own(kind.__module__):
                self._all((kind, getattr(value, "__dict__", {})))

    def _all(self, values: Any) -> None:
        for value in values:
            self.value(value)
        self._add("end")

    def _class(self, value: type) -> None:
        self._add(value.__module__, value.__qualname__)
        if self._is_own(value.__module__):
            self._all(value.__bases__)
            for name, member in sorted(vars(value).items()):
                if name not in _IGNORED_MEMBERS and not name.startswith("__dataclass"):
                    self._add(name)
                    self.value(member)

    def _function(self, value: types.FunctionType) -> None:
        if not self._is_own(value.__module__ or ""):
            self._add(value.__module__, value.__qualname__)
            return
        closure = [cell.cell_contents for cell in value.__closure__ or ()]
        self._all((value.__defaults__, value.__kwdefaults__, closure))

        names = self._code(value.__code__, value.__doc__, value.__globals__.get("__package__") or "")
        modules = []
        for name in names:
            used = value.__globals__.get(name)
            if isinstance(used, types.ModuleType):
                modules.append(used)
            elif name in value.__globals__:
                self._add(name)
                self.value(used)

        # Which names are looked up in a module cannot be seen, so all names that it has count.
        for module in modules:
            if self._is_own(module.__name__):
                has = [name for name in names if name in vars(module) and name not in value.__globals__]
                self._all(vars(module)[name] for name in has)

    def _code(self, code: types.CodeType, doc: str | None, package: str) -> list[str]:
        """Adds the instructions; returns the names that they look up, those of inner functions too."""
        inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
        others = [const for const in code.co_consts if not isinstance(const, types.CodeType)]
        self._add(code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames)
        self._all(const for const in others if doc is None or const != doc)
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                self._import(instruction.argval, package)
        return [*code.co_names, *(name for one in inner for name in self._code(one, None, package))]

    def _import(self, name: str, package: str) -> None:
        """Adds an own module that a function imports, by its file, since it may not be loaded yet."""
        for full in (name, f"{package}.{name}"):
            try:
                found = importlib.util.find_spec(full)
            except (ImportError, ValueError, AttributeError):
                continue
            file = found.origin if found else None
            if file and Path(file).is_file() and not file.startswith(_LIBRARIES):
                self._add(full, Path(file).read_bytes())


def _wrapped(value: Any) -> Any:
    """Returns the function in a functools.cache, a static or class method or a cached property, or None."""
    names = ("__wrapped__", "__func__", "func")
    return next((function for name in names if (function := getattr(value, name, None))), None)


def _package(root: Any) -> str:
    root = getattr(root, "func", root)  # of a partial
    return (getattr(root, "__module__", None) or type(root).__module__).partition(".")[0]
