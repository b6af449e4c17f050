"""instruction, images, state -> frame tokens -> Transformer -> a vector of logits for each bin of each action
dim.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from qt_jax.errors import require_one_of
from qt_jax.losses import HISTOGRAM_PADDING
from qt_jax.models.images import ImageTokenizer, encoder
from qt_jax.models.placement import by_row
from qt_jax.models.remat import POLICIES
from qt_jax.models.transformer import ATTENTION, Transformer
from qt_jax.preprocess import windows
from qt_jax.segment import Segment
from qt_jax.specs import Interface


def choices() -> dict[str, tuple[str, ...]]:
    """Returns {setting of `config.model`: the values that have a meaning}."""
    double = ("float64",) if jax.config.jax_enable_x64 else ()  # else JAX would make it float32
    return {
        "attention": ATTENTION,
        "dtype": ("float32", "bfloat16", *double),
        "remat": tuple(POLICIES),
        "encoder_remat": tuple(POLICIES),
    }


def laptop() -> ml_collections.ConfigDict:
    """Laptop size (default of this project)."""
    config = ml_collections.ConfigDict()
    config.encoder = "patch"  # of images: or "efficientnet_b3", or "module:Class" of yours
    config.patch_stages = ((8, 64, 0), (2, 96, 2))  # (patch, width, depth) of each stage of "patch"
    config.image_size = 64  # to which the encoder resizes
    config.image_tokens = 8  # of each camera and frame (TokenLearner)
    config.attention = "per_frame"  # or "window", as RT-1 (method.md, section 3)
    config.window = 2  # frames that an action is chosen from
    config.layers = 3  # of the Transformer
    config.width = 128  # of its tokens
    config.heads = 4  # of its attention
    config.mlp_ratio = 4  # width of its MLPs over that of its tokens
    config.dropout = 0.0  # in its layers, in training
    config.dtype = "float32"  # of the activations: or "bfloat16"
    config.initial_value = 0.05  # of every Q at first, as a share of value_range
    config.scan_layers = (
        False  # one compiled layer in a loop: shorter compilation and less memory for deep networks
    )
    config.remat = "none"  # of each Transformer block: "none", "dots" or "full" (models/remat.py)
    config.encoder_remat = "none"  # of each block of the image encoder
    return config


def paper() -> ml_collections.ConfigDict:
    """RT-1's sizes: EfficientNet-B3, 300x300, 8 tokens a frame, history 6, 8 layers, 8 heads, width 512 (256
    bins: the ActionSpec's).
    """
    config = laptop()
    config.encoder, config.image_size, config.image_tokens = "efficientnet_b3", 300, 8
    config.window, config.layers, config.width, config.heads = 6, 8, 512, 8
    config.dropout, config.dtype = 0.1, "bfloat16"
    config.scan_layers, config.remat, config.encoder_remat = True, "dots", "full"
    return config


class QTransformer(nnx.Module):
    """See method.md, section 3. Outputs logits; what they mean (Q, log-probability) is the agent's business.

    Args:
        config: the experiment's `config.model`.
        interface: what it sees, is told and decides.
        outputs: A, logits of each bin.
        return_conditioned: each frame has a token of its episode's return, and an action is chosen knowing
            those at the window's earlier frames.
        rngs: of the parameters.

    """

    def __init__(self, config, interface: Interface, outputs: int, return_conditioned: bool, rngs: nnx.Rngs):
        for name, known in choices().items():
            require_one_of(f"config.model.{name}", config[name], known)
        encoder(config.encoder)  # also of a network without cameras
        action, observation = interface.action, interface.observation
        instruction_dim = interface.instruction_dim
        self.dims, self.max_bins, self.outputs = action.dims, action.max_bins, outputs
        self.window = config.window
        self.dtype = jnp.dtype(config.dtype)
        width = config.width

        def linear(i, o):
            return nnx.Linear(i, o, dtype=self.dtype, rngs=rngs)

        normal = nnx.initializers.normal(0.02)
        self.instruction_token = linear(instruction_dim, width)
        self.cameras = nnx.Dict(
            {
                name: ImageTokenizer(config, instruction_dim, width, self.dtype, rngs)
                for name in observation.cameras
            }
        )
        self.state_token = nnx.List(
            [linear(observation.state_dim, width), linear(width, width)] if observation.state_dim else []
        )
        self.return_token = nnx.List([linear(1, width)] if return_conditioned else [])
        frame_tokens = (
            1
            + len(observation.cameras) * config.image_tokens
            + len(self.return_token)
            + (1 if observation.state_dim else 0)
        )
        self.token_position = nnx.Param(normal(rngs.params(), (frame_tokens, width)))
        self.start = nnx.Param(normal(rngs.params(), (width,)))
        self.bin_embedding = nnx.Param(normal(rngs.params(), (self.dims, self.max_bins, width)))
        self.dim_position = nnx.Param(normal(rngs.params(), (self.dims, width)))
        past_actions = config.window - 1 if return_conditioned else 0
        self.transformer = Transformer(config, frame_tokens, past_actions, self.dtype, rngs)
        self.head_norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Param(normal(rngs.params(), (self.dims, width, self.max_bins * outputs)))
        self.head_bias = nnx.Param(
            jnp.broadcast_to(
                _initial_bias(outputs, config.initial_value), (self.dims, self.max_bins, outputs)
            )
        )
        self.past_position = nnx.Param(normal(rngs.params(), (past_actions, width))) if past_actions else None

    def encode_frame(
        self,
        images: dict[str, jax.Array],
        camera_mask: dict[str, jax.Array],
        state: jax.Array,
        instruction: jax.Array,
        episode_return: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Any:
        """One frame each: {camera: uint8 [M, H, W, 3]}, {camera: bool [M]}, state [M, state_dim], instruction
        [M, E], episode_return [M] (where it is return-conditioned) -> cache pytree, leaves [M, ...]. Of a camera
        that is not there only the tokens' positions are left.
        """
        tokens = [self.instruction_token(instruction)[:, None]]
        for name in sorted(self.cameras):
            seen = self.cameras[name](images[name], instruction)
            tokens.append(jnp.where(camera_mask[name][:, None, None], seen, jnp.zeros_like(seen)))
        if len(self.state_token):
            first, second = self.state_token
            tokens.append(second(jax.nn.gelu(first(state)))[:, None])
        tokens += [embed(episode_return[:, None])[:, None] for embed in self.return_token]
        tokens = by_row(jnp.concatenate(tokens, axis=1) + self.token_position[...].astype(self.dtype))
        return self.transformer.frame_cache(tokens, rngs)

    def score(self, segment: Segment, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Teacher-forced logits of every step of a segment, float32 [B, S, D, N, A].

        Each frame is encoded once.
        """
        batch, steps = segment.tokens.shape[:2]

        def flat(x):
            return x.reshape(batch * steps, *x.shape[2:])

        def unflat(x):
            return x.reshape(batch, steps, *x.shape[1:])

        def each_step(x):
            return jnp.repeat(x, steps, axis=0)

        instruction, camera_mask = (
            each_step(segment.instruction),
            jax.tree.map(each_step, segment.camera_mask),
        )
        cache = self.encode_frame(jax.tree.map(flat, segment.images), camera_mask, flat(segment.state), instruction,
                                  each_step(segment.episode_return), rngs)  # fmt: skip
        cache = jax.tree.map(lambda x: flat(windows(unflat(x), self.window)), cache)
        frame_mask = flat(windows(segment.valid, self.window))
        # A step of padding has no frame at all; let it see itself, its output is masked by the agents.
        frame_mask = frame_mask.at[:, -1].set(True)
        context = self.transformer.context(cache, frame_mask, rngs)
        past = jax.tree.map(lambda x: flat(windows(x, self.window)), self._past(segment.tokens))
        actions = self._after_past(past, self._action_inputs(flat(segment.tokens)))
        outputs = self.transformer.decode(context, frame_mask, actions, rngs)
        return unflat(self._logits(outputs, slice(None)))

    def greedy(
        self, window_cache: Any, frame_mask: jax.Array, executed: jax.Array, scores: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes dim after dim with a key-value cache.

        Args:
            window_cache: cache leaves [M, w, ...]. frame_mask: [M, w].
            executed: int [M, w, D], bins of the actions at the window's frames; the newest frame's are not
                looked at.
            scores: logits [M, N, A] of one dim and its index -> [M, N]; absent bins -inf. The agent's.

        Returns:
            tokens int32 [M, D], and scores float32 [M, D, N].

        """
        context = self.transformer.context(window_cache, frame_mask)
        shape = (frame_mask.shape[0], 1, self.start[...].shape[-1])
        action, earlier, tokens, values = jnp.broadcast_to(self.start[...], shape), None, [], []
        for i in range(self.dims):
            inputs = (action + self.dim_position[...][i]).astype(self.dtype)
            inputs = inputs if i else self._after_past(self._past(executed), inputs)
            output, earlier = self.transformer.decode_step(context, frame_mask, inputs, earlier)
            values.append(scores(self._logits(output, slice(i, i + 1))[:, 0], i))
            tokens.append(jnp.argmax(values[-1], axis=-1))
            action = self.bin_embedding[...][i, tokens[-1]][:, None]
        return jnp.stack(tokens, axis=1).astype(jnp.int32), jnp.stack(values, axis=1)

    def beam(
        self,
        window_cache: Any,
        frame_mask: jax.Array,
        executed: jax.Array,
        scores: Any,
        width: int,
        additive: bool,
        present: np.ndarray,
    ) -> tuple[jax.Array, jax.Array]:
        """As `greedy`, but the `width` best prefixes are kept from dim to dim, and the best whole action is
        returned.

        A prefix ranks by the score of its last dim (a Q-value is that of the whole prefix), or by the sum
        where scores are `additive`.

        Args:
            present: bool [D], dims that the robot has; the others rank nothing.

        """
        batch = frame_mask.shape[0]

        def wide(x):
            return jnp.repeat(x, width, axis=0)

        mask = wide(frame_mask)
        context = self.transformer.context(jax.tree.map(wide, window_cache), mask)
        action, earlier = (
            jnp.broadcast_to(self.start[...], (batch * width, 1, self.start[...].shape[-1])),
            None,
        )
        rank = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones(
            (batch, 1)
        )  # at first all prefixes are the same
        tokens, values = jnp.zeros((batch, width, 0), jnp.int32), jnp.zeros((batch, width, 0, self.max_bins))
        rows = jnp.arange(batch)[:, None]
        for i in range(self.dims):
            inputs = (action + self.dim_position[...][i]).astype(self.dtype)
            inputs = inputs if i else self._after_past(self._past(wide(executed)), inputs)
            output, earlier = self.transformer.decode_step(context, mask, inputs, earlier)
            value = scores(self._logits(output, slice(i, i + 1))[:, 0], i).reshape(batch, width, -1)
            if present[i]:
                total = (
                    rank[..., None] + value
                    if additive
                    else jnp.where(jnp.isfinite(rank)[..., None], value, -jnp.inf)
                )
                rank, chosen = jax.lax.top_k(total.reshape(batch, -1), width)
                parent, token = jnp.divmod(chosen, self.max_bins)
            else:
                parent, token = (
                    jnp.broadcast_to(jnp.arange(width), (batch, width)),
                    jnp.zeros((batch, width), jnp.int32),
                )

            def follow(x, parent=parent):
                return x.reshape(x.shape[0], batch, width, *x.shape[2:])[:, rows, parent].reshape(x.shape)

            earlier = jax.tree.map(follow, earlier)
            tokens = jnp.concatenate([tokens[rows, parent], token[..., None]], axis=2)
            values = jnp.concatenate([values[rows, parent], value[rows, parent][:, :, None]], axis=2)
            action = self.bin_embedding[...][i, token.reshape(-1)][:, None]
        best = jnp.argmax(rank, axis=1)
        return tokens[rows[:, 0], best].astype(jnp.int32), values[rows[:, 0], best]

    def _action_inputs(self, tokens: jax.Array) -> jax.Array:
        """Tokens [M, D] -> inputs [M, D, width]: position i holds the action of dim i-1, so output i never
        sees a^i or later.
        """
        embedded = self._embedded(tokens)
        start = jnp.broadcast_to(self.start[...], (tokens.shape[0], 1, embedded.shape[-1]))
        return by_row(
            (jnp.concatenate([start, embedded[:, :-1]], axis=1) + self.dim_position[...]).astype(self.dtype)
        )

    def _embedded(self, tokens: jax.Array) -> jax.Array:
        """[M, ..., D] -> [M, ..., D, width]"""
        # A matrix product: the gradient of a look-up is a scatter, slow on TPUs and clumsy where the table is
        # sharded.
        return by_row(
            jnp.einsum(
                "...dn,dnw->...dw", by_row(jax.nn.one_hot(tokens, self.max_bins)), self.bin_embedding[...]
            )
        )

    def _past(self, tokens: jax.Array) -> jax.Array | None:
        """Each action as one vector, [M, T, D] -> [M, T, width]; None of a network that sees no past actions."""
        return None if self.past_position is None else self._embedded(tokens).sum(axis=2)

    def _after_past(self, actions: jax.Array | None, inputs: jax.Array) -> jax.Array:
        """`inputs` [M, n, width] after the tokens of the actions [M, w, width] at all frames of the window
        but the newest, oldest first.
        """
        if actions is None:
            return inputs
        past = (actions[:, :-1] + self.past_position[...]).astype(self.dtype)
        return by_row(jnp.concatenate([past, inputs], axis=1))

    def _logits(self, outputs: jax.Array, dims: slice) -> jax.Array:
        """[M, d, width] -> [M, d, N, A]; the head is float32 at least, whatever the compute dtype."""
        outputs = self.head_norm(outputs.astype(jnp.promote_types(self.dtype, jnp.float32)))
        logits = by_row(jnp.einsum("mdw,dwn->mdn", outputs, self.head[...][dims]))
        return logits.reshape(*logits.shape[:-1], self.max_bins, self.outputs) + self.head_bias[...][dims]


def _initial_bias(outputs: int, value: float) -> np.ndarray:
    """Returns logits [A] of values that start at `value` of the way from q_min to q_max.

    A Q of sparse rewards starts near 0. More outputs than a histogram's padding are the cells of one.
    """
    if outputs <= 2 * HISTOGRAM_PADDING:
        return np.full(outputs, math.log(value / (1 - value)), np.float32)
    rate = 1.0 / (value * outputs)  # an exponential fall over the cells has its mean near `value`
    return (-rate * np.arange(outputs)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Network:
    """The module as pure functions of a nested dict of parameters, which checkpoints and artefacts hold.

    `agents.make_network` makes the one that a config's agent asks for; see `QTransformer` for the fields.
    """

    config: ml_collections.FrozenConfigDict
    interface: Interface
    outputs: int
    return_conditioned: bool
    graphdef: Any = dataclasses.field(compare=False, repr=False)

    @classmethod
    def create(cls, config: Any, interface: Interface, outputs: int, return_conditioned: bool) -> Network:
        """Makes the network of `config`, an experiment's `config.model`; allocates nothing.

        Raises:
            UserError: for a setting without a meaning.

        """
        config = ml_collections.FrozenConfigDict(config)
        asked = config, interface, outputs, return_conditioned
        graphdef = nnx.split(nnx.eval_shape(lambda: QTransformer(*asked, nnx.Rngs(0))))[0]
        return cls(*asked, graphdef)

    def with_config(self, config: Any) -> Network:
        """Returns the same network with another `config.model`."""
        return Network.create(config, self.interface, self.outputs, self.return_conditioned)

    def init(self, key: jax.Array) -> dict:
        """Returns fresh parameters; the same key gives the same bits."""
        asked = self.config, self.interface, self.outputs, self.return_conditioned
        model = QTransformer(*asked, nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def score(self, params: dict, segment: Segment, dropout_key: jax.Array | None = None) -> jax.Array:
        """See `QTransformer.score`. Without a key there is no dropout."""
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        return nnx.merge(self.graphdef, params).score(segment, rngs)

    def encode_frame(
        self,
        params: dict,
        images: dict,
        camera_mask: dict,
        state: jax.Array,
        instruction: jax.Array,
        episode_return: jax.Array | None = None,
    ) -> Any:
        module = nnx.merge(self.graphdef, params)
        return module.encode_frame(images, camera_mask, state, instruction, episode_return)

    def greedy(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """See `QTransformer.greedy`."""
        return nnx.merge(self.graphdef, params).greedy(*inputs)

    def beam(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """See `QTransformer.beam`."""
        return nnx.merge(self.graphdef, params).beam(*inputs)


def parameter_count(params: dict) -> int:
    return sum(x.size for x in jax.tree.leaves(params))
