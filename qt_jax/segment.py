"""A batch of segments of episodes: what data makes and agents train on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax.specs import Interface

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
    """`S` consecutive records of one episode, batched to `[B, S, ...]`: the contract between data and agents.

    Record `s` holds the observation o_s, the action a_s taken there and the reward r_s that followed. The
    last record of an episode holds only o_T: `is_last` is True there, and `is_terminal` says whether the
    episode terminated (bootstrap 0) or was truncated (bootstrap from o_T).

    images:       {camera: uint8 [B, S, H, W, 3]}; empty in state-only mode; or what a frozen encoder made of
                  them, {camera: float [B, S, h, w, C]}
    camera_mask:  {camera: bool [B]}, cameras that the dataset has; the images of others are zeros
    state:        float32 [B, S, state_dim], normalised; zeros beyond what the dataset has
    instruction:  float32 [B, E], the text embedding of the instruction
    tokens:       int32 [B, S, D], bins of the decision's D dims (`Interface.decision`: a_s, and in a chunk
                  the actions after it); 0 in dims that the dataset does not have
    bins:         int32 [B, D], how many bins the dataset has in each dim; 0: it has no such dim
    action_mask:  bool [B, S, D], dims that the dataset has, at steps that are not padding, but those of a
                  chunk's actions beyond the end of the episode
    reward, mc_return: float32 [B, S]; mc_return is the discounted return of the rest of the whole episode
    dt:           float32 [B, S], seconds that the action was held
    step:         int32 [B, S], the record's number in its episode, from 0; 0 on padding
    is_first, is_last, is_terminal: bool [B, S], RLDS flags of the records
    valid:        bool [B, S], False on padding
    trainable:    bool [B, S], transitions whose window and bootstrap lie inside the segment; each one of an
                  episode is trainable in exactly one segment
    success:      bool [B], the episode's outcome
    episode_return: float32 [B], the sum of all rewards of the episode
    relabelled:   bool [B], the instruction is another task's, at which the episode failed (hindsight; nothing
        to imitate)
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
    step: Array
    is_first: Array
    is_last: Array
    is_terminal: Array
    valid: Array
    trainable: Array
    success: Array
    episode_return: Array
    relabelled: Array

    def bin_mask(self, max_bins: int) -> Array:
        """Returns which bins exist, bool [B, D, N].

        A dim that the dataset does not have has its first: a maximum over none would be -inf.
        """
        return jnp.arange(max_bins) < jnp.maximum(self.bins, 1)[..., None]


FEATURES = np.float16
"""Of features that are kept on disk."""


def segment_struct(
    interface: Interface, batch: int, steps: int, features: tuple[int, ...] | None = None
) -> Segment:
    """Returns the shapes and dtypes of a batch, for programs that are compiled before data is there.

    Where there are `features`, they are the shape [h, w, C] of what is there in place of an image.
    """
    action, observation = interface.decision, interface.observation

    def of(dtype, *rest):
        return jax.ShapeDtypeStruct((batch, steps, *rest), dtype)

    def whole(dtype, *rest):
        return jax.ShapeDtypeStruct((batch, *rest), dtype)

    flag, number = of(np.bool_), of(np.float32)
    frame = of(FEATURES, *features) if features else of(np.uint8, *observation.image_size, 3)
    return Segment(
        images={name: frame for name in observation.cameras},
        camera_mask={name: whole(np.bool_) for name in observation.cameras},
        state=of(np.float32, observation.state_dim),
        instruction=whole(np.float32, interface.instruction_dim),
        tokens=of(np.int32, action.dims), bins=whole(np.int32, action.dims),
        action_mask=of(np.bool_, action.dims),
        reward=number, mc_return=number, dt=number, step=of(np.int32),
        is_first=flag, is_last=flag, is_terminal=flag, valid=flag, trainable=flag,
        success=whole(np.bool_), episode_return=whole(np.float32), relabelled=whole(np.bool_),
    )  # fmt: skip
