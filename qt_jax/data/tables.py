"""Resolves the names in a config to datasets and mixtures, a user's own tables included."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import math
import numbers
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from qt_jax.data.mixtures import KINDS, MIXTURES, Share
from qt_jax.data.specs import SPECS, DatasetSpec
from qt_jax.errors import UserError
from qt_jax.specs import Interface, ObservationSpec, network_action

_OURS = "_qt_jax_tables"
"""Attribute that marks a module as a user's tables."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A dataset of a mixture.

    weight: its share of the segments; balance: {kind: share within the dataset}, where the kinds that are not
    named share the rest; like: the dataset of the mixture whose robot recorded this one too, and whose bounds
    and statistics hold for it; "": it has its own.
    """

    name: str
    spec: DatasetSpec
    weight: float
    balance: dict[str, float]
    like: str = ""


def resolve(settings: Any, own: Mapping[str, DatasetSpec]) -> tuple[Entry, ...]:
    """Returns the datasets of `config.data.mixture`.

    Args:
        settings: `config.data`.
        own: {name: spec} beside those of the project and of the file `config.data.tables`; paths complete.

    Raises:
        UserError: for an unknown name, a wrong share, or a file of tables that cannot be used.

    """
    users = _load(settings.tables) if settings.tables else None
    specs = {**SPECS, **_table(users, "SPECS", DatasetSpec), **own}
    mixtures = {**MIXTURES, **_table(users, "MIXTURES", Mapping)}
    name = settings.mixture
    shares = mixtures.get(name, {name: 1.0} if name in specs else None)
    if shares is None:
        raise UserError(
            f"config.data.mixture is {name!r}; {_known(name, [*mixtures, *specs])} (more can be added by "
            "config.data.tables)."
        )
    unknown = [dataset for dataset in shares if dataset not in specs]
    if unknown:
        raise UserError(
            f"Mixture {name!r} names the dataset {unknown[0]!r}; {_known(unknown[0], list(specs))}."
        )

    shares = {key: share if isinstance(share, Share) else Share(share) for key, share in shares.items()}
    weights = [share.weight for share in shares.values()]
    if not weights or not all(isinstance(w, numbers.Real) and 0 < float(w) < math.inf for w in weights):
        raise UserError(f"Mixture {name!r} has weights {weights}; expected positive numbers, one a dataset.")

    common = {kind: share for kind, share in settings.balance.items() if share is not None}
    entries = []
    for (dataset, share), weight in zip(shares.items(), weights):
        balance = common if share.balance is None else share.balance
        _check_balance(dataset, balance)
        spec = specs[dataset] if dataset in own else _placed(specs[dataset], settings.root)
        entries.append(Entry(dataset, _with_bins(spec, settings.bins), weight / sum(weights), dict(balance)))
    return tuple(entries)


def interface(entries: Sequence[Entry], image_size: int, instruction_dim: int) -> Interface:
    """Returns the interface of a network for all datasets: every named dim and camera, the longest state.

    Args:
        entries: the datasets.
        image_size: as in `network_observation`.
        instruction_dim: length of the instructions' embeddings.

    Raises:
        UserError: as in `network_observation`.

    """
    action = network_action([entry.spec.action for entry in entries])
    return Interface(action, network_observation(entries, image_size), instruction_dim)


def network_observation(entries: Sequence[Entry], image_size: int) -> ObservationSpec:
    """Returns what a network for all datasets sees: every camera, the longest state.

    Args:
        entries: the datasets.
        image_size: side of the square to which all images are resized; 0: they stay as stored.

    Raises:
        UserError: if the images are stored in different sizes and no size is given.

    """
    observations = [entry.spec.observation for entry in entries]
    cameras = tuple(sorted({camera for observation in observations for camera in observation.cameras}))
    specs = [entry.spec for entry in entries]
    sizes = {spec.stored_size(camera) for spec in specs for camera in spec.observation.cameras}
    if len(sizes) > 1 and not image_size:
        raise UserError(
            f"The data have images of {sorted(sizes)}; set config.data.image_size, to which all are resized."
        )

    size = (image_size, image_size) if image_size else next(iter(sizes), observations[0].image_size)
    longest = max(observations, key=lambda observation: observation.state_dim)
    return ObservationSpec(cameras, size, longest.state_dim, longest.state_description)


def _table(users: ModuleType | None, name: str, kind: type) -> dict[str, Any]:
    """Returns a table of the user's file; raises a UserError for one that is no {name: `kind`}."""
    found = getattr(users, name, {})
    if not isinstance(found, Mapping):
        raise UserError(f"config.data.tables has {name} as a {type(found).__name__}; expected a dict.")
    for key, value in found.items():
        if not isinstance(value, kind):
            expected = "a DatasetSpec" if kind is DatasetSpec else "a dict of datasets and their weights"
            raise UserError(
                f"config.data.tables has {name}[{key!r}] as a {type(value).__name__}; expected {expected}."
            )
    return dict(found)


def _load(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise UserError(
            f"config.data.tables is {path!r}, which is no file; give a Python file with SPECS and MIXTURES."
        )
    file = Path(path).resolve()
    known = sys.modules.get(file.stem)
    if known is not None and not hasattr(known, _OURS):
        raise UserError(
            f"config.data.tables={path} has the name of a module that is loaded already, {file.stem!r}; "
            "rename the file."
        )
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"config.data.tables is {path!r}; give a Python file, whose name ends with '.py'.")

    # Worker processes find the module by its name, on the path that they inherit.
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    setattr(module, _OURS, True)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"config.data.tables={path} cannot be imported ({type(error).__name__}: {error})."
        ) from error
    if not (hasattr(module, "SPECS") or hasattr(module, "MIXTURES")):
        raise UserError(f"config.data.tables={path} defines neither SPECS nor MIXTURES.")
    return module


def _known(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"expected one of {sorted(known)}"


def _check_balance(dataset: str, balance: Mapping[str, float]) -> None:
    total, named = sum(balance.values()), set(balance)
    is_wrong = named - set(KINDS) or any(share < 0 for share in balance.values())
    if is_wrong or total > 1 or (named == set(KINDS) and total < 1):
        raise UserError(
            f"The balance of {dataset} is {dict(balance)}; expected shares of {KINDS} that sum to 1, or to "
            "less where one is left out and takes the rest."
        )


def _placed(spec: DatasetSpec, root: str) -> DatasetSpec:
    if not root or spec.path.startswith("/") or "://" in spec.path:
        return spec
    return dataclasses.replace(spec, path=f"{root.rstrip('/')}/{spec.path}")


def _with_bins(spec: DatasetSpec, bins: int) -> DatasetSpec:
    if not bins:
        return spec
    counts = tuple(bins if count > 2 else count for count in spec.action.bins)
    return dataclasses.replace(spec, action=dataclasses.replace(spec.action, bins=counts))
