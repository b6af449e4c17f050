"""Packs and unpacks messages: msgpack with arrays, as `openpi-client` has them.

There is no pickle and there are no object arrays. An array's size must be what its message says it is.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from qt_jax.policy.requests import Refused

DTYPES = frozenset(
    np.dtype(t).str for t in ("bool", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
)
MAX_DIMS = 4


def pack(message: dict[str, Any]) -> bytes:
    """Returns a message as msgpack.

    Raises:
        TypeError: for a value that is no number, string, list or array of a dtype in `DTYPES`.
        ValueError, OverflowError: for text or an integer that msgpack cannot hold.

    """
    return msgpack.packb(message, default=_packed)


def unpack(data: bytes) -> dict[str, Any]:
    """Returns the message in `data`; its arrays are read-only views of `data`.

    Raises:
        Refused: `malformed`, if it is no msgpack map, or holds an array of another dtype or size than it
            says.

    """
    try:
        message = msgpack.unpackb(
            data,
            object_hook=_unpacked,
            max_array_len=10_000,
            max_map_len=1_000,
            max_str_len=10_000,
            max_ext_len=0,
        )
    except Refused:
        raise
    except Exception as error:  # bytes of a stranger may make msgpack raise anything
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        expected = "expected msgpack, a map with strings as keys"
        raise _malformed(f"The message cannot be read ({reason}); {expected}.") from None
    if not isinstance(message, dict):
        raise _malformed(f"The message is a {type(message).__name__}, expected a map from names to values.")
    return message


def _malformed(reason: str) -> Refused:
    return Refused("malformed", reason)


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.str in DTYPES:
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic) and value.dtype.str in DTYPES:
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    given = f"{type(value).__name__} {getattr(value, 'dtype', '')}"
    raise TypeError(f"{given} cannot be sent; expected numbers, strings, lists or arrays.")


def _unpacked(value: dict[Any, Any]) -> Any:
    """Returns what a map stands for: an array, a number of numpy, or itself."""
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        return _number(value)
    return value


def _array(value: dict[Any, Any]) -> np.ndarray:
    dtype, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_is_size, shape)):
        raise _malformed(f"An array has shape {shape!r}; expected at most {MAX_DIMS} sizes, none below 0.")
    expected = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != expected:
        size = len(data) if isinstance(data, bytes) else "no"
        raise _malformed(f"An array of {dtype.str}{shape} holds {size} bytes, expected {expected}.")
    return np.frombuffer(data, dtype).reshape(shape)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _number(value: dict[Any, Any]) -> Any:
    dtype, number = _dtype(value), value.get(b"data")
    if not isinstance(number, (bool, int, float)):
        raise _malformed(f"A {dtype.str} is a {type(number).__name__}; expected a number.")
    try:
        return dtype.type(number)
    except (OverflowError, ValueError) as error:
        raise _malformed(f"A {dtype.str} is {number!r} ({error}).") from None


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value.get(b"dtype")
    if not isinstance(name, str) or name not in DTYPES:
        raise _malformed(f"An array has dtype {str(name)[:40]!r}; expected one of {sorted(DTYPES)}.")
    return np.dtype(name)
