"""Messages and frames that no client should send, drawn from a seed."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgpack
import numpy as np
from websockets.frames import Frame, Opcode

from qt_jax.policy.observations import ARRAYS, OPTIONAL
from qt_jax.serving import wire

KEYS = (
    *OPTIONAL,
    *ARRAYS,
    "prompt",
    "values",
    "label",
    "close",
    "observation/front",
    "observation/state",
    "x",
)
NAN = float("nan")


def array(data: object, dtype: object, shape: object) -> bytes:
    packed = {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}
    return msgpack.packb({"observation/front": packed})


def odd_values(rng: np.random.Generator) -> list:
    size = int(rng.integers(0, 5))
    return [
        *(None, True, False, -1, 0, 2**63, -(2**63), NAN, float("inf"), -0.0, 1e308, 0.001),
        *("", " ", "\0", "x" * 2000, "🤖", b"", b"\xff", [], [[]], [[[[1]]]], {}, {"": {}}, {"a": [None]}),
        *([NAN] * size, ["a"] * size, [{}] * size, [1e400], {"success": NAN}, {"late": -1}, {"late": 2**62}),
        np.full(size, NAN),
        np.full((64, 64, 3), NAN, np.float16),
        np.zeros((0,) * (1 + size % 4), np.uint8),
        np.full((2, 1, 2), NAN),
        np.full((2, 1, 2), 1e30),
        rng.normal(size=(1,) * (1 + size % 4)),
        np.bool_(True),
        np.float64(NAN),
        np.uint64(2**64 - 1),
    ]


def message(rng: np.random.Generator, good: dict) -> bytes | str:
    """Returns a message that is broken, or a good one with one to three odd values."""
    packed = wire.pack(good)
    deep, long = int(rng.integers(1, 3000)), 2**32 - 1 - int(rng.integers(0, 2))

    def flipped() -> bytes:
        return bytes(b ^ (rng.random() < 0.01) * int(rng.integers(1, 256)) for b in packed[-3000:])

    def odd() -> bytes:
        values = odd_values(rng)
        keys = rng.choice(KEYS, int(rng.integers(1, 4)))
        return wire.pack(good | {str(key): values[rng.integers(0, len(values))] for key in keys})

    kinds: list[Callable[[], bytes | str]] = [
        *[odd] * 12,
        lambda: packed[: rng.integers(0, len(packed))],
        lambda: rng.bytes(int(rng.integers(0, 300))),
        flipped,
        lambda: array(b"12345678", "|O", [1]),
        lambda: array(b"", "|u1", [2**31 - 1, 2**31 - 1, 3]),
        lambda: array(3, 7, "x"),
        lambda: array(b"123", "|u1", [-3]),
        lambda: array(b"\0" * 8, "<f8", [1] * deep),
        lambda: msgpack.packb([1, 2, 3]),
        lambda: msgpack.packb({1: 2}),
        lambda: msgpack.packb({"prompt": msgpack.ExtType(5, b"x")}),
        lambda: b"\x81\xa6prompt\xa4\xff\xfe\xc0\x80",  # no UTF-8
        lambda: b"\x82\xa1a" + b"\x91" * deep + b"\x01\xa1b\x01",  # nested arrays
        lambda: b"\x81" * deep,  # nested maps
        lambda: bytes([rng.choice([0xC6, 0xC9, 0xDB, 0xDD, 0xDF])]) + struct.pack(">I", long),
        lambda: b"\x81\xa1a" + bytes([rng.choice([0xC6, 0xDB, 0xDD, 0xDF])]) + struct.pack(">I", long),
        lambda: "hello",
    ]
    return kinds[rng.integers(0, len(kinds))]()


def frames(rng: np.random.Generator) -> bytes:
    """Returns bytes that no websocket may send after its handshake, or the half of a frame."""
    payload = rng.bytes(int(rng.integers(0, 200)))
    kinds: list[Callable[[], bytes]] = [
        lambda: Frame(Opcode.BINARY, payload).serialize(mask=False),
        lambda: bytes([0x80 | int(rng.choice([3, 4, 5, 6, 7, 11, 15])), 0x80]) + b"mask",  # no such opcode
        lambda: bytes([0xF2, 0x80]) + b"mask",  # reserved bits
        lambda: bytes([0x09, 0x80]) + b"mask",  # a ping in parts
        lambda: b"\x89\xfe\x00\xff" + b"mask" + b"x" * 255,  # a long ping
        lambda: b"\x82\xff" + (2**62).to_bytes(8, "big") + b"mask",
        lambda: b"\x82\xff" + (2**64 - 1).to_bytes(8, "big") + b"mask",
        lambda: Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True),
        lambda: Frame(Opcode.CONT, payload).serialize(mask=True),
        lambda: Frame(Opcode.CLOSE, b"\x00\x01").serialize(mask=True),
        lambda: Frame(Opcode.CLOSE, b"\x03").serialize(mask=True),
        lambda: Frame(Opcode.BINARY, payload).serialize(mask=True)[:-1],
        lambda: b"GET / HTTP/1.1\r\n\r\n",
        lambda: rng.bytes(int(rng.integers(1, 300))),
    ]
    return kinds[rng.integers(0, len(kinds))]()
