"""The ground floor: what an action, an observation and a policy look like.

Everybody may import it; numpy is enough.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from qt_jax.errors import UserError

DEMONSTRATION = "demonstration"
"""The collector kind of a human's or an expert's episode; every other kind is autonomous."""


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """A continuous action of `D` dims, each cut into `bins[i]` equal bins over `[low[i], high[i]]`."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    bins: tuple[int, ...]

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        if not len(self.names) == len(self.low) == len(self.high) == len(self.bins):
            raise UserError(
                f"ActionSpec: names, low, high and bins have lengths {len(self.names)}, {len(self.low)}, "
                f"{len(self.high)}, {len(self.bins)}; give one entry for each action dim."
            )
        for name, low, high, bins in zip(self.names, self.low, self.high, self.bins):
            if not low < high:
                raise UserError(f"ActionSpec: dim {name!r} has low {low} >= high {high}; give low < high.")
            if not np.isfinite((low, high)).all():
                raise UserError(f"ActionSpec: dim {name!r} has bounds {low} and {high}; give finite numbers.")
            if bins < 2 or bins % 1:
                raise UserError(f"ActionSpec: dim {name!r} has {bins} bins; give at least 2, a whole number.")

    @property
    def dims(self) -> int:
        return len(self.names)

    @property
    def max_bins(self) -> int:
        return max(self.bins)

    def bin_mask(self) -> np.ndarray:
        """[D, N_max] bool: which bins exist in each dim."""
        return np.arange(self.max_bins)[None, :] < np.asarray(self.bins)[:, None]

    def slots_in(self, network: ActionSpec) -> tuple[int, ...]:
        """Which dim of the network's action each dim of this one is, by name."""
        return tuple(network.names.index(name) for name in self.names)

    def bins_in(self, network: ActionSpec) -> np.ndarray:
        """int32 [D of the network]: bins of this action in each dim of the network's; 0 where it has no such
        dim.
        """
        bins = np.zeros(network.dims, np.int32)
        bins[list(self.slots_in(network))] = self.bins
        return bins


def network_action(actions: Sequence[ActionSpec]) -> ActionSpec:
    """The action of a network for several robots: every named dim once, the robot with most dims first, with
    the most bins of any.

    Its bounds mean nothing where robots differ: each robot's own spec says what its bins are.
    """
    dims: dict[str, tuple[float, float, int]] = {}
    for action in sorted(actions, key=lambda action: -action.dims):
        for name, low, high, bins in zip(action.names, action.low, action.high, action.bins):
            known = dims.get(name, (low, high, bins))
            dims[name] = (*known[:2], max(known[2], bins))
    return ActionSpec(tuple(dims), *zip(*dims.values()))


@dataclasses.dataclass(frozen=True)
class ObservationSpec:
    """Camera names with the stored image size (height, width), the length of the state vector (0: none) and
    what is in it.
    """

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    state_dim: int
    state_description: str

    def __post_init__(self):
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if not self.cameras and not self.state_dim:
            raise UserError(
                "ObservationSpec: no camera and no state vector; a policy needs at least one of them."
            )


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """All that the policy runtime must know beside the parameters and the two programs."""

    action: ActionSpec
    observation: ObservationSpec
    slots: tuple[int, ...]
    """Which dim of the network's action each dim of `action` is."""
    window: int
    instruction_dim: int
    text_encoder: str
    score_name: str
    """What greedy decoding maximises: a value only where it is "Q"."""
    dt: float
    """Seconds from one control step to the next."""
    told_return: float | None = None
    """The return that it is told an episode is to have (Decision Transformer); None: it is told none."""

    @functools.cached_property
    def decided(self) -> tuple[int, ...]:
        """Dims of `action` in the order in which the network decides them; each sees those before it."""
        return tuple(np.argsort(self.slots).tolist())

    def score(self, chosen: np.ndarray) -> np.ndarray:
        """Of whole actions [...], from their bins' [..., D]: the last decided Q; log-probabilities add up."""
        return chosen[..., self.decided[-1]] if self.score_name == "Q" else chosen.sum(-1)

    def __post_init__(self):
        if len(self.slots) != self.action.dims or len({*self.slots}) < len(self.slots) or min(self.slots) < 0:
            raise UserError(f"PolicySpec: slots are {self.slots}; give {self.action.dims} dims, each once.")
        if not 0 < self.dt < np.inf:
            raise UserError(f"PolicySpec: dt is {self.dt}; give the seconds of a control step, above 0.")
        for name in ("window", "instruction_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"PolicySpec: {name} is {getattr(self, name)}; give 1 or more.")
        for name in ("text_encoder", "score_name"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UserError(f"PolicySpec: {name} is {getattr(self, name)!r}; give its name.")


def to_json(spec: Any) -> dict[str, Any]:
    """A spec dataclass as plain JSON types."""
    return dataclasses.asdict(spec)
