"""The ground floor: what an action, an observation, a segment and a policy look like. Everybody may import it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.errors import UserError

Array = jax.Array | np.ndarray

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
            if bins < 2:
                raise UserError(f"ActionSpec: dim {name!r} has {bins} bins; give at least 2.")

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
        """int32 [D of the network]: bins of this action in each dim of the network's; 0 where it has no such dim."""
        bins = np.zeros(network.dims, np.int32)
        bins[list(self.slots_in(network))] = self.bins
        return bins


def network_action(actions: Sequence[ActionSpec]) -> ActionSpec:
    """The action of a network for several robots: every named dim once, the robot with most dims first, with the most bins of any.

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
    """Camera names with the stored image size (height, width), the length of the state vector (0: none) and what is in it."""

    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    state_dim: int
    state_description: str

    def __post_init__(self):
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        if not self.cameras and not self.state_dim:
            raise UserError("ObservationSpec: no camera and no state vector; a policy needs at least one of them.")


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """`S` consecutive records of one episode, batched to `[B, S, ...]`: the contract between data and agents.

    Record `s` holds the observation o_s, the action a_s taken there and the reward r_s that followed. The last record of an
    episode holds only o_T: `is_last` is True there, and `is_terminal` says whether the episode terminated (bootstrap 0) or was
    truncated (bootstrap from o_T).

    images:       {camera: uint8 [B, S, H, W, 3]}; empty in state-only mode
    camera_mask:  {camera: bool [B]}, cameras that the dataset has; the images of others are zeros
    state:        float32 [B, S, state_dim], normalised; zeros beyond what the dataset has
    instruction:  float32 [B, E], the text embedding of the instruction
    tokens:       int32 [B, S, D], bins of the action; 0 in dims that the dataset does not have
    bins:         int32 [B, D], how many bins the dataset has in each dim; 0: it has no such dim
    action_mask:  bool [B, S, D], dims that the dataset has, at steps that are not padding
    reward, mc_return: float32 [B, S]; mc_return is discounted and computed over the whole episode
    dt:           float32 [B, S], seconds that the action was held
    is_first, is_last, is_terminal: bool [B, S], RLDS flags of the records
    valid:        bool [B, S], False on padding
    trainable:    bool [B, S], transitions whose window and bootstrap lie inside the segment; each one of an episode is
                  trainable in exactly one segment
    success:      bool [B], the episode's outcome
    relabelled:   bool [B], the instruction is another task's, at which the episode failed (hindsight; nothing to imitate)
    """

    images: dict[str, Array]
    camera_mask: dict[str, Array]
    state: Array
    instruction: Array
    tokens: Array
    bins: Array
    action_mask: Array
    reward: Array
    mc_return: Array
    dt: Array
    is_first: Array
    is_last: Array
    is_terminal: Array
    valid: Array
    trainable: Array
    success: Array
    relabelled: Array

    def bin_mask(self, max_bins: int) -> Array:
        """bool [B, D, N]: bins that exist; in a dim that the dataset does not have, the first (a maximum over none would be -inf)."""
        return jnp.arange(max_bins) < jnp.maximum(self.bins, 1)[..., None]


def segment_struct(action: ActionSpec, observation: ObservationSpec, instruction_dim: int, batch: int, steps: int) -> Segment:
    """Shapes and dtypes of a batch, for programs that are compiled before data is there."""
    of = lambda dtype, *rest: jax.ShapeDtypeStruct((batch, steps, *rest), dtype)
    whole = lambda dtype, *rest: jax.ShapeDtypeStruct((batch, *rest), dtype)
    flag, number = of(np.bool_), of(np.float32)
    return Segment(
        images={name: of(np.uint8, *observation.image_size, 3) for name in observation.cameras},
        camera_mask={name: whole(np.bool_) for name in observation.cameras},
        state=of(np.float32, observation.state_dim), instruction=whole(np.float32, instruction_dim),
        tokens=of(np.int32, action.dims), bins=whole(np.int32, action.dims), action_mask=of(np.bool_, action.dims),
        reward=number, mc_return=number, dt=number, is_first=flag, is_last=flag, is_terminal=flag, valid=flag, trainable=flag,
        success=whole(np.bool_), relabelled=whole(np.bool_),
    )  # fmt: skip


def to_json(spec: Any) -> dict[str, Any]:
    """A spec dataclass as plain JSON types."""
    return dataclasses.asdict(spec)
