"""The parameters that image encoders start from: those that an encoder brings, or a file of the user's.

An encoder that brings some has a class method `pretrained(config)`, of `config.model`, which returns {path
below the encoder, such as "stem/kernel": array}. One whose files have other names has `named(arrays)`, which
gives arrays of these names their paths; what it does not know keeps its name.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from qt_jax import storage
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.images import EncoderAlone, encoder
from qt_jax.models.network import parameter_path

_PLACE = re.compile(r"(?:^|/)cameras/([^/]+)/encoder/(.+)$")
MOST_NAMED = 5
"""Parameters of a kind that a message names."""


def in_encoder(path: str) -> bool:
    """Returns whether the parameter of this path is an image encoder's."""
    return _PLACE.search(path) is not None


def _below(path: str) -> str:
    """Returns the path below its encoder of a parameter of one."""
    return _PLACE.sub(r"\2", path)


def is_new(path: str) -> bool:
    """Returns whether a parameter is one that no encoder is pretrained with: FiLM's."""
    return "film" in path.split("/")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What the encoders of a network start from."""

    arrays: dict[str, np.ndarray]
    """{path in the network: array}."""
    report: str
    """A line for people: what matched, and what did not."""

    def put(self, params: dict, networks: int) -> dict:
        """Returns the parameters with these in place, in every network, dtypes and shardings as they were."""

        def placed(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            array = self.arrays.get(parameter_path(path))
            if array is None:
                return x
            whole = array if networks == 1 else np.broadcast_to(array, x.shape)
            return jax.device_put(np.asarray(whole, x.dtype), x.sharding)

        return jax.tree_util.tree_map_with_path(placed, params)


def of_encoders(params: dict, networks: int) -> dict[str, np.ndarray]:
    """Returns {path: array} of the encoders of the first network."""
    leaves = ((parameter_path(path), x) for path, x in jax.tree_util.tree_leaves_with_path(params))
    return {path: np.asarray(x if networks == 1 else x[0]) for path, x in leaves if in_encoder(path)}


def load(ensemble: Ensemble) -> Pretrained | None:
    """Reads what the encoders start from; None if all their parameters are random ones.

    Raises:
        UserError: if the file or the encoder's own parameters cannot be read, nothing in it is a parameter of
            the encoder, one has another shape, or a frozen encoder's is missing.

    """
    config, interface = ensemble.config, ensemble.interface
    cameras, made_by, file = interface.observation.cameras, encoder(config.encoder), config.encoder_weights
    if not cameras and (config.frozen_encoder or file):
        raise UserError(
            "config.model.frozen_encoder and encoder_weights are of image encoders, and the data has no "
            "camera; leave them at False and ''."
        )
    if not cameras or not (file or hasattr(made_by, "pretrained")):
        return None
    if file:
        arrays, where = of_file(file), f"config.model.encoder_weights={file}"
        arrays = made_by.named(arrays) if hasattr(made_by, "named") else arrays
    else:
        arrays, where = made_by.pretrained(config), f"{config.encoder}, its own parameters"
    alone = EncoderAlone(config, interface.instruction_dim)
    wanted = {
        f"cameras/{camera}/encoder/{parameter_path(path)}": x.shape
        for camera in cameras
        for path, x in jax.tree_util.tree_leaves_with_path(alone.params)
    }
    return _matched(arrays, wanted, where, config.frozen_encoder)


def of_file(file: str) -> dict[str, np.ndarray]:
    """Reads {name: array} of `config.model.encoder_weights`; raises a UserError if it is no such file."""
    path = storage.directory(file)
    try:
        return safetensors.numpy.load(path.read_bytes())
    except Exception as error:  # safetensors' own are of several kinds
        raise UserError(
            f"config.model.encoder_weights is {file!r}, which cannot be read as safetensors ({error}); give "
            "a file that safetensors wrote."
        ) from error


def _matched(
    arrays: dict[str, np.ndarray], wanted: dict[str, tuple[int, ...]], where: str, frozen: bool
) -> Pretrained:
    """Gives each wanted path its array: the one of the whole path, or of the path below the encoder."""
    found, used = {}, set()
    for path, shape in wanted.items():
        name = next((name for name in (path, _below(path)) if name in arrays), None)
        if name is None:
            continue
        array = np.asarray(arrays[name])
        if array.shape != shape:
            raise UserError(
                f"{where}: {name} has shape {list(array.shape)}, the encoder's has {list(shape)}; give the "
                "parameters of this encoder, or leave that one out of the file."
            )
        if not np.isfinite(array).all():
            raise UserError(f"{where}: {name} is not finite; give other parameters.")
        found[path] = array
        used.add(name)

    unused = sorted(set(arrays) - used)
    if not found:
        raise UserError(
            f"{where}: none of its arrays is a parameter of the encoder. It has {_some(unused)}; expected "
            f"{_some(sorted(set(map(_below, wanted))))}."
        )
    missing = sorted(path for path in wanted if path not in found and (frozen or not is_new(path)))
    if missing and frozen:
        raise UserError(
            f"{where} lacks {_some(missing)}; a frozen encoder would keep random numbers there. Give a file "
            "with all of them, or set config.model.frozen_encoder to False."
        )
    report = f"{where}: {len(found)} of {len(found) + len(missing)} parameters"
    report += f"; random at first: {_some(missing)}" if missing else ""
    report += f"; not used: {_some(unused)}" if unused else ""
    return Pretrained(found, report)


def _some(names: list[str]) -> str:
    """Returns the first names, and how many more there are."""
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
