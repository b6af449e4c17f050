"""The network: instruction, images, state -> frame tokens -> Transformer -> logits of each dim's bins."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from qt_jax.errors import require_one_of
from qt_jax.models.images import ImageTokenizer, encoder
from qt_jax.models.placement import by_row
from qt_jax.models.remat import POLICIES
from qt_jax.models.transformer import ATTENTION, Transformer
from qt_jax.preprocess import windows
from qt_jax.segment import Array, Segment
from qt_jax.specs import Interface


def choices() -> dict[str, tuple[str, ...]]:
    """Returns {setting of `config.model`: the values that have a meaning}."""
    has_double = jax.dtypes.canonicalize_dtype(np.float64) == np.float64  # else JAX makes it float32
    double = ("float64",) if has_double else ()
    return {
        "attention": ATTENTION,
        "dtype": ("float32", "bfloat16", *double),
        "remat": tuple(POLICIES),
        "encoder_remat": tuple(POLICIES),
    }


def laptop() -> ml_collections.ConfigDict:
    """Returns the settings of laptop size (default of this project)."""
    config = ml_collections.ConfigDict()
    # of images: or "efficientnet_b3", "efficientnet_lite0" or "efficientnet_lite2" (pretrained), or
    # "module:Class" of yours
    config.encoder = "patch"
    # a safetensors file of the encoder's parameters; empty: its own, if it is pretrained, or random ones
    config.encoder_weights = ""
    config.frozen_encoder = False  # it stays as it is; language then acts on its features alone
    config.patch_stages = ((8, 64, 0), (2, 96, 2))  # (patch, width, depth) of each stage of "patch"
    config.image_size = 64  # to which the encoder resizes
    config.image_tokens = 8  # of each camera and frame (TokenLearner)
    config.attention = "per_frame"  # or "window", as RT-1 (method.md, section 3)
    config.window = 2  # frames that a decision is made from
    config.chunk = 1  # actions that are decided at once (method.md, section 4)
    config.execute = 0  # of them executed before the next decision; 0: all
    config.layers = 3  # of the Transformer
    config.width = 128  # of its tokens
    config.heads = 4  # of its attention
    config.mlp_ratio = 4  # width of its MLPs over that of its tokens
    config.dropout = 0.0  # in its layers, in training
    # least attention entropy that a learned weight a layer holds (TQL), a share of the greatest; 0: none
    config.entropy_target = 0.0
    config.dtype = "float32"  # of the activations: or "bfloat16"
    config.initial_value = 0.05  # of every Q at first, as a share of value_range
    config.networks = 1  # whole ones, each from its own initial parameters; they learn apart and act together
    config.scan_layers = False  # one compiled layer in a loop: deep networks compile faster, in less memory
    config.remat = "none"  # of each Transformer block: "none", "dots" or "full" (models/remat.py)
    config.encoder_remat = "none"  # of each block of the image encoder
    return config


def paper() -> ml_collections.ConfigDict:
    """Returns the settings of RT-1's size.

    EfficientNet-B3 at 300x300, 8 tokens a frame, a window of 6, 8 layers, 8 heads, width 512. Its 256 bins
    are the ActionSpec's.
    """
    config = laptop()
    config.encoder, config.image_size, config.image_tokens = "efficientnet_b3", 300, 8
    config.window, config.layers, config.width, config.heads = 6, 8, 512, 8
    config.dropout, config.dtype = 0.1, "bfloat16"
    config.scan_layers, config.remat, config.encoder_remat = True, "dots", "full"
    return config


class QTransformer(nnx.Module):
    """The module of docs/method.md, section 3.

    It outputs logits; what they mean (Q, log-probability) is the agent's business.

    Letters: M frames or steps, w frames of a window, D dims of a decision (of all actions of a chunk), N
    bins, A outputs of each bin.

    Args:
        config: the experiment's `config.model`.
        interface: what the network is between.
        outputs: A.
        return_conditioned: each frame has a token of its episode's return, and an action is chosen knowing
            those at the window's earlier frames.
        timesteps: steps of an episode that have an embedding each; later ones have the last. It is added to
            the tokens of the frame and of the past action there (Chen et al. 2021). 0: none has.
        cells: of a value distribution. The outputs are such distributions first, as many as there is room
            for, then single ones. 1: all are single.
        rngs: for the initial parameters.

    Raises:
        UserError: for a setting without a meaning.

    """

    def __init__(
        self,
        config: Any,
        interface: Interface,
        outputs: int,
        return_conditioned: bool,
        timesteps: int,
        cells: int,
        rngs: nnx.Rngs,
    ):
        for name, known in choices().items():
            require_one_of(f"config.model.{name}", config[name], known)
        encoder(config.encoder)  # also of a network without cameras
        action, observation = interface.decision, interface.observation
        self.dims, self.max_bins, self.outputs = action.dims, action.max_bins, outputs
        self.window, self.dtype = config.window, jnp.dtype(config.dtype)
        self.execute, self.executed_dims = interface.execute, interface.executed.dims
        width = config.width

        def linear(i: int, o: int) -> nnx.Linear:
            return nnx.Linear(i, o, dtype=self.dtype, rngs=rngs)

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape))

        def camera() -> ImageTokenizer:
            return ImageTokenizer(config, interface.instruction_dim, width, self.dtype, rngs)

        # The order of what follows decides which parameter has which random numbers.
        self.instruction_token = linear(interface.instruction_dim, width)
        self.cameras = nnx.Dict({name: camera() for name in observation.cameras})
        self.state_token = nnx.List(
            [linear(observation.state_dim, width), linear(width, width)] if observation.state_dim else []
        )
        self.return_token = nnx.List([linear(1, width)] if return_conditioned else [])
        image_tokens = len(observation.cameras) * config.image_tokens
        frame_tokens = 1 + image_tokens + len(self.return_token) + (1 if observation.state_dim else 0)
        self.token_position = normal(frame_tokens, width)

        self.start = normal(width)
        self.bin_embedding = normal(self.dims, self.max_bins, width)
        self.dim_position = normal(self.dims, width)
        past_actions = config.window - 1 if return_conditioned else 0
        self.transformer = Transformer(config, frame_tokens, past_actions, self.dtype, rngs)

        self.head_norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = normal(self.dims, width, self.max_bins * outputs)
        bias = _initial_bias(outputs, cells, config.initial_value)
        self.head_bias = nnx.Param(jnp.broadcast_to(bias, (self.dims, self.max_bins, outputs)))
        self.past_position = normal(past_actions, width) if past_actions else None
        self.timestep_embedding = normal(timesteps, width) if timesteps else None

    def encode_frame(
        self,
        images: dict[str, jax.Array],
        camera_mask: dict[str, jax.Array],
        state: jax.Array,
        instruction: jax.Array,
        episode_return: jax.Array | None = None,
        step: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
        entropies: list[jax.Array] | None = None,
    ) -> Any:
        """Computes what is kept of M frames.

        Args:
            images: {camera: uint8 [M, H, W, 3]}, or the `frozen_features` of them.
            camera_mask: {camera: bool [M]}; of an absent camera only the tokens' positions are left.
            state: [M, state_dim], normalised.
            instruction: [M, E].
            episode_return: [M], needed where the network is return-conditioned.
            step: int [M], of the episode, needed where the network embeds timesteps.
            rngs: of dropout; None: no dropout.
            entropies: see `Transformer`.

        Returns:
            A pytree whose leaves are [M, ...].

        """
        tokens = [self.instruction_token(instruction)[:, None]]
        for name in sorted(self.cameras):
            seen = self.cameras[name](images[name], instruction)
            tokens.append(jnp.where(camera_mask[name][:, None, None], seen, jnp.zeros_like(seen)))
        if len(self.state_token):
            first, second = self.state_token
            tokens.append(second(jax.nn.gelu(first(state)))[:, None])
        for embed in self.return_token:
            assert episode_return is not None, "a return-conditioned network needs a return"
            tokens.append(embed(episode_return[:, None])[:, None])

        joined = jnp.concatenate(tokens, axis=1) + self.token_position[...].astype(self.dtype)
        if self.timestep_embedding is None:
            return self.transformer.frame_cache(by_row(joined), rngs, entropies)
        assert step is not None, "a network that embeds timesteps needs the step"
        timestep = self._timestep(step)
        cache = self.transformer.frame_cache(by_row(joined + timestep[:, None]), rngs, entropies)
        return {"frame": cache, "timestep": timestep}

    def frozen_features(self, images: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Computes what frozen encoders make of {camera: uint8 [M, H, W, 3]}: {camera: [M, h, w, C]}."""
        return {name: self.cameras[name].frozen_features(frames) for name, frames in images.items()}

    def score(
        self, segment: Segment, rngs: nnx.Rngs | None = None, entropies: list[jax.Array] | None = None
    ) -> jax.Array:
        """Computes the teacher-forced logits of every step of a segment, float32 [B, S, D, N, A].

        Each frame is encoded once. Without `rngs` there is no dropout. For `entropies` see `Transformer`.
        """
        context, frame_mask, past = self.steps(segment, rngs, entropies)
        actions = self.after_past(past, self.action_inputs(self._embedded(_tokens_of_steps(segment))))
        outputs = self.transformer.decode(context, frame_mask, actions, rngs, entropies)
        return in_steps(self.logits(outputs, slice(None)), segment)

    def score_watched(
        self, segment: Segment, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Computes what `score` does, and the sums [E] of attention entropies with their count [].

        They are shares of the greatest entropy, in the order of `entropy.names`, over trainable steps and
        present dims. A step's frames count once for each of its dims.
        """
        entropies: list[jax.Array] = []
        logits = self.score(segment, rngs, entropies)
        frames, actions = entropies
        mask = jnp.asarray(segment.trainable[..., None] & segment.action_mask).reshape(-1, self.dims)
        of_actions = jnp.sum(actions, axis=(1, 2), where=mask)
        of_frames = frames @ mask.sum(-1).astype(frames.dtype)
        return logits, (jnp.concatenate([of_actions, of_frames]), mask.sum())

    def steps(
        self, segment: Segment, rngs: nnx.Rngs | None, entropies: list[jax.Array] | None = None
    ) -> tuple[Any, jax.Array, jax.Array | None]:
        """Returns each step's context, its mask of frames [B * S, w], and past actions [B * S, w, width]."""
        batch, steps = segment.tokens.shape[:2]

        def flat(x: Any) -> Any:
            return x.reshape(batch * steps, *x.shape[2:])

        def each_step(x: Any) -> jax.Array:
            return jnp.repeat(x, steps, axis=0)

        def in_windows(x: Any) -> jax.Array:
            return flat(windows(x, self.window, self.execute))

        cache = self.encode_frame(
            jax.tree.map(flat, segment.images),
            jax.tree.map(each_step, segment.camera_mask),
            flat(segment.state),
            each_step(segment.instruction),
            each_step(segment.episode_return),
            flat(segment.step),
            rngs,
            entropies,
        )
        cache = jax.tree.map(lambda x: in_windows(in_steps(x, segment)), cache)
        # A step of padding has no frame at all; it may see itself, agents mask its output.
        frame_mask = in_windows(segment.valid).at[:, -1].set(True)
        past = jax.tree.map(in_windows, self.past_actions(segment.tokens))
        context, past = self.window_context(cache, frame_mask, past, rngs, entropies)
        return context, frame_mask, past

    def action_inputs(self, embedded: jax.Array) -> jax.Array:
        """Embedded bins [M, D, width] -> inputs [M, D, width].

        Position i holds the action of dim i-1, so output i never sees a^i or later.
        """
        start = jnp.broadcast_to(self.start[...], (embedded.shape[0], 1, embedded.shape[-1]))
        inputs = jnp.concatenate([start, embedded[:, :-1]], axis=1) + self.dim_position[...]
        return by_row(inputs.astype(self.dtype))

    def _embedded(self, tokens: Array) -> jax.Array:
        """Tokens [M, ..., D] -> [M, ..., D, width]."""
        # A matrix product: the gradient of a look-up is a scatter, slow on TPUs and in sharded tables.
        one_hot = by_row(jax.nn.one_hot(tokens, self.max_bins))
        return by_row(jnp.einsum("...dn,dnw->...dw", one_hot, self.bin_embedding[...]))

    def _timestep(self, step: Array) -> jax.Array:
        """Steps of an episode [M] -> the embedding of each, [M, width]."""
        assert self.timestep_embedding is not None
        table = self.timestep_embedding[...]
        one_hot = by_row(jax.nn.one_hot(jnp.minimum(step, len(table) - 1), len(table)))
        return by_row((one_hot @ table).astype(self.dtype))

    def window_context(
        self,
        cache: Any,
        frame_mask: jax.Array,
        actions: jax.Array | None,
        rngs: nnx.Rngs | None = None,
        entropies: list[jax.Array] | None = None,
    ) -> tuple[Any, jax.Array | None]:
        """Computes a window's keys and values, and its actions [M, w, width] with their timesteps, if any.

        `cache` is what is kept of its frames, leaves [M, w, ...]; `actions` are `past_actions`.
        """
        if self.timestep_embedding is None:
            return self.transformer.context(cache, frame_mask, rngs, entropies), actions
        actions = None if actions is None else actions + cache["timestep"]
        return self.transformer.context(cache["frame"], frame_mask, rngs, entropies), actions

    def past_actions(self, tokens: Array) -> jax.Array | None:
        """Past decisions [M, T, D] -> a vector each, [M, T, width]; None of a network that sees none.

        Of a chunk it has what was executed: in training, the rest is what the next decision is to find.
        """
        if self.past_position is None:
            return None
        return self._embedded(tokens)[..., : self.executed_dims, :].sum(axis=2)

    def after_past(self, actions: jax.Array | None, inputs: jax.Array) -> jax.Array:
        """Puts before `inputs` [M, n, width] the actions at all frames of the window but the newest.

        `actions` [M, w, width] are those of all frames, oldest first.
        """
        if actions is None or self.past_position is None:
            return inputs
        past = (actions[:, :-1] + self.past_position[...]).astype(self.dtype)
        return by_row(jnp.concatenate([past, inputs], axis=1))

    def logits(self, outputs: jax.Array, dims: slice) -> jax.Array:
        """[M, d, width] -> [M, d, N, A], in float32 at least, whatever the compute dtype."""
        outputs = self.head_norm(outputs.astype(jnp.promote_types(self.dtype, jnp.float32)))
        logits = by_row(jnp.einsum("mdw,dwn->mdn", outputs, self.head[...][dims]))
        return logits.reshape(*logits.shape[:-1], self.max_bins, self.outputs) + self.head_bias[...][dims]


def _tokens_of_steps(segment: Segment) -> jax.Array:
    """Returns the bins of each step's action, [B * S, D]."""
    return jnp.reshape(segment.tokens, (-1, segment.tokens.shape[-1]))


def in_steps(x: jax.Array, segment: Segment) -> jax.Array:
    """[B * S, ...] -> [B, S, ...]."""
    return x.reshape(*segment.tokens.shape[:2], *x.shape[1:])


def _initial_bias(outputs: int, cells: int, value: float) -> np.ndarray:
    """Returns logits [A] of values that start at `value` of the way from q_min to q_max.

    A Q of sparse rewards starts near 0. See `QTransformer` for `cells`.
    """
    distributions = outputs // cells if cells > 1 else 0
    rate = 1.0 / (value * cells)  # an exponential fall over the cells has its mean near `value`
    single = np.full(outputs - distributions * cells, math.log(value / (1 - value)))
    return np.concatenate([np.tile(-rate * np.arange(cells), distributions), single]).astype(np.float32)
