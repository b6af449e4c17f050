"""Finds the commit that a launcher ships, and which of a run's files are not in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.runs import READ, Run
from qt_jax.cli.settings import flattened
from qt_jax.errors import UserError

SHIPPED = ("qt_jax", "setup.cfg", "pyproject.toml", "requirements-tpu.txt")
"""What every run needs of the repository: the package, and the files that install it."""


def head() -> str:
    """Returns the commit HEAD of the repository whose root is the working directory.

    Raises:
        UserError: if there is no commit, or this is not the root, from which a slice names its files.

    """
    commit = _git("rev-parse", "HEAD").strip()
    if below := _git("rev-parse", "--show-prefix").strip():
        root = _git("rev-parse", "--show-toplevel").strip()
        raise UserError(
            f"This is {below} of the repository {root}; launch from its root, which the slice gets."
        )
    return commit


def files_of(runs: Sequence[Run]) -> list[str]:
    """Returns the files that these runs use, by their names from here.

    They are the package, the experiments, the files and modules that settings name, and all that this process
    imported or read to resolve the experiments. Of a symbolic link its target is one of them, too.
    """
    shipped = [path for name in SHIPPED for path in (Path(name), *Path(name).rglob("[!.]*"))]
    package = [path for path in shipped if path.is_file()]
    named = [Path(name) for run in runs for name in (run.experiment.partition(":")[0], *_named(run))]
    links = [Path(os.path.relpath(os.path.realpath(path))) for path in named if path.is_symlink()]
    files = {str(path) for path in [*named, *links, *_loaded(), *package] if "__pycache__" not in path.parts}
    return sorted(files)


def _named(run: Run) -> Iterator[str]:
    """Yields the files that the run's settings name, as a path or as a module."""
    for value in flattened(run.config).values():
        for text in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(text, str):
                module = text.partition(":")[0].replace(".", "/") + ".py"  # of "module:function"
                yield from (path for path in (text, module) if os.path.isfile(path))


def _loaded() -> Iterator[Path]:
    """Yields the files below this folder that this process imported, or read to resolve experiments."""
    here = Path.cwd().resolve()
    modules = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    for path in (Path(name).resolve() for name in (*modules, *READ)):
        if path.is_relative_to(here) and path.is_file():
            path = path.relative_to(here)
            installed = path.parts[0].startswith(".") or "site-packages" in path.parts
            if not installed and path.parts[0] != "launch":  # it runs here, not on the slice
                yield path


def differing(files: Sequence[str]) -> dict[str, str]:
    """Returns {file: how it differs} of the files that are not in the commit HEAD as they are here.

    Files of the package that were deleted here are among them.
    """
    entries = [entry.partition("\t") for entry in _git("ls-tree", "-r", "-z", "HEAD").split("\0") if entry]
    committed = {path: about.split()[2] for about, _, path in entries}
    package = [path for path in committed if path.partition("/")[0] in SHIPPED]

    found = {path: _outside(path) or "is not in the commit HEAD" for path in files if path not in committed}
    known = [path for path in (*files, *package) if path in committed]
    found |= {path: "is deleted here" for path in known if not os.path.exists(path)}

    both = [path for path in files if path not in found and not os.path.islink(path)]
    hashes = _git("hash-object", "--stdin-paths", text="\n".join(both)).split()
    changed = [path for path, blob in zip(both, hashes) if committed[path] != blob]
    return found | dict.fromkeys(changed, "differs from the commit HEAD")


def _outside(path: str) -> str:
    """Returns why a slice cannot have the file under this name; empty: it can."""
    inside = os.path.realpath(path).startswith(f"{os.getcwd()}/")
    if not os.path.isabs(path) and inside:
        return ""
    return "has another name on the slice: name it from here" if inside else "is not below this folder"


def listed(found: dict[str, str], most: int = 3) -> str:
    """Returns what `differing` found as words, of at most so many files."""
    shown = "; ".join(f"{path} {how}" for path, how in list(found.items())[:most])
    return shown + (f"; and {len(found) - most} more files" if len(found) > most else "")


def _git(*arguments: str, text: str = "") -> str:
    try:
        done = subprocess.run(["git", *arguments], input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "There is no git here; install it, as the slice gets the code of a commit.",
            topic="missing-package",
        ) from None
    if done.returncode:
        raise UserError(
            f"git {arguments[0]} failed: {' '.join(done.stderr.split())}; launch from the root of a "
            "repository with a commit, which is what the slice gets."
        )
    return done.stdout
