"""Messages: msgpack with arrays, as `openpi-client` packs them.

No pickle, no object arrays; sizes are what they claim to be.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from qt_jax.policy.sessions import Refused

DTYPES = frozenset(
    np.dtype(t).str for t in ("bool", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
)
MAX_DIMS = 4


def pack(message: dict[str, Any]) -> bytes:
    return msgpack.packb(message, default=_packed)


def unpack(data: bytes) -> dict[str, Any]:
    """A message; its arrays are read-only views of `data`.

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
    except Exception as error:  # whatever msgpack raises at bytes of a stranger's
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise Refused(
            "malformed",
            f"The message cannot be read ({reason}); expected msgpack, a map with strings as keys.",
        ) from None
    if not isinstance(message, dict):
        raise Refused(
            "malformed", f"The message is a {type(message).__name__}, expected a map from names to values."
        )
    return message


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
    raise TypeError(
        f"{type(value).__name__} {getattr(value, 'dtype', '')} cannot be sent; expected numbers, strings, lists or arrays."
    )


def _unpacked(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_DIMS
            or not all(type(n) is int and 0 <= n < 2**31 for n in shape)
        ):
            raise Refused(
                "malformed", f"An array has shape {shape!r}; expected at most {MAX_DIMS} sizes, none below 0."
            )
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            size = len(data) if isinstance(data, bytes) else "no"
            raise Refused(
                "malformed",
                f"An array of {dtype.str}{shape} holds {size} bytes, expected {math.prod(shape) * dtype.itemsize}.",
            )
        return np.frombuffer(data, dtype).reshape(shape)
    if b"__npgeneric__" in value:
        dtype, number = _dtype(value), value.get(b"data")
        if not isinstance(number, (bool, int, float)):
            raise Refused("malformed", f"A {dtype.str} is a {type(number).__name__}; expected a number.")
        try:
            return dtype.type(number)
        except (OverflowError, ValueError) as error:
            raise Refused("malformed", f"A {dtype.str} is {number!r} ({error}).") from None
    return value


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value.get(b"dtype")
    if not isinstance(name, str) or name not in DTYPES:
        raise Refused(
            "malformed", f"An array has dtype {str(name)[:40]!r}; expected one of {sorted(DTYPES)}."
        )
    return np.dtype(name)
