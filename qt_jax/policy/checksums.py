"""SHA256SUMS: the checksum of every file of a folder, as `sha256sum --check SHA256SUMS` reads them too."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from qt_jax.errors import UserError

FILE = "SHA256SUMS"


def write(folder: Path) -> None:
    """Writes the checksums of all that is in the folder; every file gets the mode that new files have here.

    Some libraries write files that their owner alone may read; a robot runs under an account of its own.
    """
    sums = "".join(f"{_checksum(file)}  {file.relative_to(folder).as_posix()}\n" for file in _files(folder))
    (folder / FILE).write_text(sums)
    mode = stat.S_IMODE((folder / FILE).stat().st_mode)  # as the umask has it
    for file in _files(folder):
        if stat.S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)


def check(folder: Path) -> None:
    """Compares every file with its checksum; hidden files (.NAME), which are the system's own, are left out.

    Raises:
        UserError: naming the file that is missing, unknown, changed or may not be read.

    """
    try:
        listed = _read(folder)
        for file, expected in listed.items():
            _check_file(file, expected)
        for file in _files(folder):
            if file not in listed:
                raise UserError(
                    f"{file} is no part of the policy: {FILE} lacks it; move it away, or copy the whole "
                    "folder again if it was exported."
                )
    except OSError as error:
        raise unreadable(Path(error.filename or folder), folder, error) from error


def fingerprint(folder: Path) -> str:
    """Returns 12 hexadecimal digits that tell a folder's contents from others; "" without checksums."""
    try:
        return _checksum(folder / FILE)[:12]
    except OSError:  # `check` says which file is missing, and why
        return ""


def unreadable(file: Path, folder: Path, error: OSError) -> UserError:
    """Returns an error that says why the file cannot be read, and the remedy."""
    remedy = "copy the folder again"
    if isinstance(error, PermissionError):
        remedy = f"its owner lets others read it: `chmod -R a+rX {folder}`, and a+x for the folders above"
    return UserError(f"{file} cannot be read ({error.strerror}); {remedy}.", topic="storage")


def _check_file(file: Path, expected: str) -> None:
    try:
        found = _checksum(file)
    except FileNotFoundError:
        raise UserError(f"{file} is missing; copy the whole folder, or export the policy again.") from None
    if found != expected:
        why = f"sha256 {found[:16]}..., expected {expected[:16]}..." if file.stat().st_size else "it is empty"
        raise UserError(f"{file} was changed or damaged ({why}); copy it again, or export the policy again.")


def _read(folder: Path) -> dict[Path, str]:
    file = folder / FILE
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{file} is missing: the export or the copy did not end; copy the whole folder, or export again."
        ) from None
    except ValueError as error:
        raise UserError(f"{file} was changed or damaged ({error}); copy the whole folder again.") from error
    listed = {}
    for number, line in enumerate(lines or [""], 1):
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not found:
            raise UserError(f"{file} was changed or damaged (line {number}); copy the whole folder again.")
        listed[folder / found[2]] = found[1]
    return listed


def _files(folder: Path) -> Iterator[Path]:
    """Yields all files below the folder but the checksums and what is hidden."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path != folder / FILE:
            yield path


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
