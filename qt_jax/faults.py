"""Errors of the machine, the device or the storage, told from errors in the files themselves."""

from __future__ import annotations

import dataclasses
import errno
import re
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kind of failure and what to do about it.

    what: the cause in a few words; remedy: an instruction that "and start again" may follow; topic: the
    section of troubleshooting.md, as in `errors.UserError`.
    """

    what: str
    remedy: str
    topic: str = "storage"


_FILES = Fault("too many files are open", "raise the limit (`ulimit -n`)")
_MEMORY = Fault(
    "memory ran out",
    "free what else runs on this device or machine, or take one with more memory (or several)",
    "out-of-memory",
)
_SPACE = Fault("the storage is full", "free space there, or raise the quota", "disk-full")
_ACCESS = Fault(
    "access is not permitted", "look who owns it and who you are there (`ls -ld`; in a bucket, the login)"
)
_READ_ONLY = Fault("the storage is read-only", "mount it writable")
_STORAGE = Fault("the storage failed or is not there", "look at the disk, the mount or the network")
_DEVICE = Fault("the device failed", "look at the device and its driver", "device")

_NUMBERS = {
    _FILES: "EMFILE ENFILE",
    _MEMORY: "ENOMEM",
    _SPACE: "ENOSPC EDQUOT EFBIG",
    _ACCESS: "EACCES EPERM EKEYEXPIRED EKEYREVOKED EKEYREJECTED ENOKEY",
    _READ_ONLY: "EROFS",
    _STORAGE: "EIO ESTALE EREMOTEIO ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED EHOSTUNREACH EHOSTDOWN "
    "ENETDOWN ENETUNREACH ENETRESET ENOTCONN EPIPE ENODEV ENXIO ENOLINK ECOMM ESHUTDOWN EBUSY ENOLCK",
}
_OF_NUMBER = {
    getattr(errno, name): fault
    for fault, names in _NUMBERS.items()
    for name in names.split()
    if hasattr(errno, name)
}

_TEXTS = (
    (_FILES, r"Too many open files"),
    (_SPACE, r"No space left|quota exceeded|File too large"),
    (_ACCESS, r"PERMISSION_DENIED|UNAUTHENTICATED|Permission ?denied|Forbidden|Unauthorized"),
    (_ACCESS, r"HTTP\D{0,40}(?:401|403)\b"),
    (_READ_ONLY, r"Read-only file system"),
    (_MEMORY, r"RESOURCE_EXHAUSTED|[Oo]ut of memory|OUT_OF_MEMORY|bad_alloc|Cannot allocate memory"),
    (_STORAGE, r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|Input/output error|Stale (?:NFS )?file handle"),
    (_STORAGE, r"[Tt]imed out|Connection|HTTP\D{0,40}50[0-4]\b"),
    (_DEVICE, r"INTERNAL:|CUDA_ERROR|NCCL"),
)
"""The order matters: stores report too many open files and no memory by the same code."""


def find(error: BaseException) -> Fault | None:
    """Returns the fault behind an error, or None if the files that were read or written may be to blame."""
    causes = list(chain(error))
    for one in causes:
        in_text = map(int, re.findall(r"(?:OS error|Errno) (\d+)", text_of(one)))
        for number in (getattr(one, "errno", None), *in_text):
            if number in _OF_NUMBER:
                return _OF_NUMBER[number]

    for one in causes:
        if isinstance(one, MemoryError):
            return _MEMORY
        for fault, pattern in _TEXTS:
            if re.search(pattern, text_of(one)):
                return fault
        if isinstance(one, (TimeoutError, ConnectionError)):
            return _STORAGE
    return None


def root_cause(error: BaseException) -> str:
    """Returns the type and the first line of the error that `error` was raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def text_of(error: BaseException) -> str:
    """Returns an error's message without names of files and TensorStore's specifications.

    These may hold any words, the patterns of other faults among them.
    """
    text = re.split(r"\[tensorstore_spec|See full TensorStore details|\[source locations", str(error))[0]
    return re.sub(r"\"[^\"]*\"|'[^']*'", "''", text)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yields the error, those that it was raised from or after, and those that a group holds."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        others = one.__cause__, one.__context__, *getattr(one, "exceptions", ())
        waiting += [other for other in others if other is not None]
