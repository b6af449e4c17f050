"""The network: instruction, images, state -> frame tokens -> Transformer -> logits of each dim's bins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
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
from qt_jax.segment import Array, Segment
from qt_jax.specs import Interface

Scores = Callable[[jax.Array, int], Any]
"""(logits [M, N, A] of one dim, the dim) -> scores [M, N], of absent bins -inf: the best bin is decided.

Or a tuple that begins with them; the others, such as probabilities, are returned beside them."""


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

    Letters: M frames or steps, w frames of a window, D action dims, N bins, A outputs of each bin.

    Args:
        config: the experiment's `config.model`.
        interface: what the network is between.
        outputs: A.
        return_conditioned: each frame has a token of its episode's return, and an action is chosen knowing
            those at the window's earlier frames.
        rngs: for the initial parameters.

    Raises:
        UserError: for a setting without a meaning.

    """

    def __init__(
        self, config: Any, interface: Interface, outputs: int, return_conditioned: bool, rngs: nnx.Rngs
    ):
        for name, known in choices().items():
            require_one_of(f"config.model.{name}", config[name], known)
        encoder(config.encoder)  # also of a network without cameras
        action, observation = interface.action, interface.observation
        self.dims, self.max_bins, self.outputs = action.dims, action.max_bins, outputs
        self.window, self.dtype = config.window, jnp.dtype(config.dtype)
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
        bias = _initial_bias(outputs, config.initial_value)
        self.head_bias = nnx.Param(jnp.broadcast_to(bias, (self.dims, self.max_bins, outputs)))
        self.past_position = normal(past_actions, width) if past_actions else None

    def encode_frame(
        self,
        images: dict[str, jax.Array],
        camera_mask: dict[str, jax.Array],
        state: jax.Array,
        instruction: jax.Array,
        episode_return: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Any:
        """Computes what is kept of M frames.

        Args:
            images: {camera: uint8 [M, H, W, 3]}.
            camera_mask: {camera: bool [M]}; of an absent camera only the tokens' positions are left.
            state: [M, state_dim], normalised.
            instruction: [M, E].
            episode_return: [M], needed where the network is return-conditioned.
            rngs: of dropout; None: no dropout.

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
        return self.transformer.frame_cache(by_row(joined), rngs)

    def score(self, segment: Segment, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Computes the teacher-forced logits of every step of a segment, float32 [B, S, D, N, A].

        Each frame is encoded once. Without `rngs` there is no dropout.
        """
        context, frame_mask, past = self._steps(segment, rngs)
        actions = self._after_past(past, self._action_inputs(_tokens_of_steps(segment)))
        outputs = self.transformer.decode(context, frame_mask, actions, rngs)
        return _unflat(self._logits(outputs, slice(None)), segment)

    def decode_segment(self, segment: Segment, scores: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes an action greedily at every step of a segment; each frame is encoded once.

        Args:
            segment: its own actions are seen as earlier ones alone, by a return-conditioned network.
            scores: see `greedy`, with M = B * S.

        Returns:
            tokens int32 [B, S, D], and what `scores` gives, float32 [B, S, D, N].

        """
        context, frame_mask, past = self._steps(segment, None)
        return jax.tree.map(
            lambda x: _unflat(x, segment), self._decode(context, frame_mask, past, _greatest(scores))
        )

    def _steps(self, segment: Segment, rngs: nnx.Rngs | None) -> tuple[Any, jax.Array, jax.Array | None]:
        """Returns each step's context, its mask of frames [B * S, w], and past actions [B * S, w, width]."""
        batch, steps = segment.tokens.shape[:2]

        def flat(x: Any) -> Any:
            return x.reshape(batch * steps, *x.shape[2:])

        def each_step(x: Any) -> jax.Array:
            return jnp.repeat(x, steps, axis=0)

        def in_windows(x: Any) -> jax.Array:
            return flat(windows(x, self.window))

        cache = self.encode_frame(
            jax.tree.map(flat, segment.images),
            jax.tree.map(each_step, segment.camera_mask),
            flat(segment.state),
            each_step(segment.instruction),
            each_step(segment.episode_return),
            rngs,
        )
        cache = jax.tree.map(lambda x: in_windows(_unflat(x, segment)), cache)
        # A step of padding has no frame at all; it may see itself, agents mask its output.
        frame_mask = in_windows(segment.valid).at[:, -1].set(True)
        past = jax.tree.map(in_windows, self._past(segment.tokens))
        return self.transformer.context(cache, frame_mask, rngs), frame_mask, past

    def greedy(
        self, window_cache: Any, frame_mask: jax.Array, executed: jax.Array, scores: Scores
    ) -> tuple[jax.Array, Any]:
        """Decodes actions dim after dim with a key-value cache, each the bin of the best score.

        Args:
            window_cache: what is kept of the window's frames, leaves [M, w, ...].
            frame_mask: bool [M, w], which frames are there.
            executed: int [M, w, D], bins of the actions at the window's frames; the newest frame's are not
                read.
            scores: see `Scores`.

        Returns:
            The bins int32 [M, D], and what `scores` gives, float32 [M, D, N].

        """
        context = self.transformer.context(window_cache, frame_mask)
        return self._decode(context, frame_mask, self._past(executed), _greatest(scores))

    def _decode(
        self, context: Any, frame_mask: jax.Array, past: jax.Array | None, choose: Any
    ) -> tuple[jax.Array, Any]:
        """Decodes dim after dim.

        choose: logits [M, N, A] of one dim and its index -> its bin [M], and what is known of its bins, a
            pytree of [M, N].
        """
        shape = (frame_mask.shape[0], 1, self.start[...].shape[-1])
        action, earlier, tokens, values = jnp.broadcast_to(self.start[...], shape), None, [], []
        for i in range(self.dims):
            inputs = (action + self.dim_position[...][i]).astype(self.dtype)
            inputs = inputs if i else self._after_past(past, inputs)
            output, earlier = self.transformer.decode_step(context, frame_mask, inputs, earlier)
            token, value = choose(self._logits(output, slice(i, i + 1))[:, 0], i)
            tokens.append(token)
            values.append(value)
            action = self.bin_embedding[...][i, token][:, None]
        of_bins = jax.tree.map(lambda *dims: jnp.stack(dims, axis=1), *values)
        return jnp.stack(tokens, axis=1).astype(jnp.int32), of_bins

    def beam(
        self,
        window_cache: Any,
        frame_mask: jax.Array,
        executed: jax.Array,
        scores: Scores,
        width: int,
        additive: bool,
        present: np.ndarray,
    ) -> tuple[jax.Array, Any]:
        """Decodes as `greedy`, but keeps the `width` best prefixes from dim to dim; returns the best action.

        A prefix ranks by the score of its last dim (a Q-value is that of the whole prefix), or by the sum
        where scores are additive.

        Args:
            window_cache: see `greedy`.
            frame_mask: see `greedy`.
            executed: see `greedy`.
            scores: see `greedy`.
            width: of the beam.
            additive: whether the scores of dims add up.
            present: bool [D], dims that the robot has; the others rank nothing.

        """
        batch = frame_mask.shape[0]

        def wide(x: jax.Array) -> jax.Array:
            return jnp.repeat(x, width, axis=0)

        mask = wide(frame_mask)
        context = self.transformer.context(jax.tree.map(wide, window_cache), mask)
        shape = batch * width, 1, self.start[...].shape[-1]
        action, earlier = jnp.broadcast_to(self.start[...], shape), None
        # At first all prefixes are the same, so the first alone ranks.
        rank = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
        tokens, values, rows = jnp.zeros((batch, width, 0), jnp.int32), None, jnp.arange(batch)[:, None]

        for i in range(self.dims):
            inputs = (action + self.dim_position[...][i]).astype(self.dtype)
            inputs = inputs if i else self._after_past(self._past(wide(executed)), inputs)
            output, earlier = self.transformer.decode_step(context, mask, inputs, earlier)
            value = scores(self._logits(output, slice(i, i + 1))[:, 0], i)
            value = jax.tree.map(lambda x: x.reshape(batch, width, 1, -1), value)

            if present[i]:
                score = _deciding(value)[:, :, 0]
                if additive:
                    total = rank[..., None] + score
                else:
                    total = jnp.where(jnp.isfinite(rank)[..., None], score, -jnp.inf)
                rank, chosen = jax.lax.top_k(total.reshape(batch, -1), width)
                parent, token = jnp.divmod(chosen, self.max_bins)
            else:
                parent = jnp.broadcast_to(jnp.arange(width), (batch, width))
                token = jnp.zeros((batch, width), jnp.int32)

            def follow(x: jax.Array, parent: jax.Array = parent) -> jax.Array:
                return x.reshape(x.shape[0], batch, width, *x.shape[2:])[:, rows, parent].reshape(x.shape)

            earlier = jax.tree.map(follow, earlier)
            tokens = jnp.concatenate([tokens[rows, parent], token[..., None]], axis=2)
            kept = [value] if values is None else [values, value]
            kept = jax.tree.map(lambda *dims: jnp.concatenate(dims, axis=2), *kept)
            values = jax.tree.map(lambda x, parent=parent: x[rows, parent], kept)
            action = self.bin_embedding[...][i, token.reshape(-1)][:, None]
        best = jnp.argmax(rank, axis=1)
        tokens, values = jax.tree.map(lambda x: x[rows[:, 0], best], (tokens, values))
        return tokens.astype(jnp.int32), values

    def rank(
        self,
        window_cache: Any,
        frame_mask: jax.Array,
        executed: jax.Array,
        scores: Scores,
        candidates: Any,
        uniforms: jax.Array,
        present: np.ndarray,
    ) -> tuple[jax.Array, Any]:
        """Draws K whole actions, and returns the one whose last dim has the greatest Q.

        Args:
            window_cache: see `greedy`.
            frame_mask: see `greedy`.
            executed: see `greedy`.
            scores: see `greedy`; they decide nothing.
            candidates: the agent's: logits [M * K, N, A] of one dim, and the dim -> the probabilities from
                which its bin is drawn and the Q of its bins, each [M * K, N]; of absent bins 0 and -inf.
            uniforms: [M, K, D] in [0, 1), which decide the draws.
            present: bool [D], dims that the robot has; the others rank nothing.

        Returns:
            The bins int32 [M, D] of the best action, and what `scores` gives of its dims, float32 [M, D, N].

        """
        batch, count, _ = uniforms.shape

        def wide(x: jax.Array) -> jax.Array:
            return jnp.repeat(x, count, axis=0)

        context = jax.tree.map(
            lambda x: jnp.repeat(x, count, axis=1), self.transformer.context(window_cache, frame_mask)
        )
        mask, past = wide(frame_mask), jax.tree.map(wide, self._past(executed))

        def choose(logits: jax.Array, dim: int) -> tuple[jax.Array, Any]:
            probabilities, q = candidates(logits, dim)
            below = jnp.cumsum(probabilities, axis=-1) <= uniforms[..., dim].reshape(-1, 1)
            last = probabilities.shape[-1] - 1 - jnp.argmax(probabilities[..., ::-1] > 0, axis=-1)
            token = jnp.minimum(below.sum(-1), last)  # rounding may leave the sum below 1
            return token, (q, scores(logits, dim))

        tokens, (q, values) = jax.tree.map(
            lambda x: x.reshape(batch, count, *x.shape[1:]), self._decode(context, mask, past, choose)
        )
        last = np.flatnonzero(present)[-1]
        q = jnp.take_along_axis(q[:, :, last], tokens[:, :, last, None], axis=-1)[..., 0]
        best, rows = jnp.argmax(q, axis=1), jnp.arange(batch)
        return jax.tree.map(lambda x: x[rows, best], (tokens, values))

    def _action_inputs(self, tokens: jax.Array) -> jax.Array:
        """Tokens [M, D] -> inputs [M, D, width].

        Position i holds the action of dim i-1, so output i never sees a^i or later.
        """
        embedded = self._embedded(tokens)
        start = jnp.broadcast_to(self.start[...], (tokens.shape[0], 1, embedded.shape[-1]))
        inputs = jnp.concatenate([start, embedded[:, :-1]], axis=1) + self.dim_position[...]
        return by_row(inputs.astype(self.dtype))

    def _embedded(self, tokens: Array) -> jax.Array:
        """Tokens [M, ..., D] -> [M, ..., D, width]."""
        # A matrix product: the gradient of a look-up is a scatter, slow on TPUs and in sharded tables.
        one_hot = by_row(jax.nn.one_hot(tokens, self.max_bins))
        return by_row(jnp.einsum("...dn,dnw->...dw", one_hot, self.bin_embedding[...]))

    def _past(self, tokens: Array) -> jax.Array | None:
        """Actions [M, T, D] -> a vector each, [M, T, width]; None of a network that sees no past actions."""
        return None if self.past_position is None else self._embedded(tokens).sum(axis=2)

    def _after_past(self, actions: jax.Array | None, inputs: jax.Array) -> jax.Array:
        """Puts before `inputs` [M, n, width] the actions at all frames of the window but the newest.

        `actions` [M, w, width] are those of all frames, oldest first.
        """
        if actions is None or self.past_position is None:
            return inputs
        past = (actions[:, :-1] + self.past_position[...]).astype(self.dtype)
        return by_row(jnp.concatenate([past, inputs], axis=1))

    def _logits(self, outputs: jax.Array, dims: slice) -> jax.Array:
        """[M, d, width] -> [M, d, N, A], in float32 at least, whatever the compute dtype."""
        outputs = self.head_norm(outputs.astype(jnp.promote_types(self.dtype, jnp.float32)))
        logits = by_row(jnp.einsum("mdw,dwn->mdn", outputs, self.head[...][dims]))
        return logits.reshape(*logits.shape[:-1], self.max_bins, self.outputs) + self.head_bias[...][dims]


def _greatest(scores: Any) -> Any:
    """Returns a `choose` of `QTransformer._decode` that takes the bin with the greatest score."""

    def choose(logits, dim):
        values = scores(logits, dim)
        return jnp.argmax(_deciding(values), axis=-1), values

    return choose


def _deciding(values: Any) -> jax.Array:
    """Returns the scores of what a `Scores` gives."""
    return values[0] if isinstance(values, tuple) else values


def _tokens_of_steps(segment: Segment) -> jax.Array:
    """Returns the bins of each step's action, [B * S, D]."""
    return jnp.reshape(segment.tokens, (-1, segment.tokens.shape[-1]))


def _unflat(x: jax.Array, segment: Segment) -> jax.Array:
    """[B * S, ...] -> [B, S, ...]."""
    return x.reshape(*segment.tokens.shape[:2], *x.shape[1:])


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
        """Computes logits; see `QTransformer.score`. Without a key there is no dropout."""
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        return nnx.merge(self.graphdef, params).score(segment, rngs)

    def decode_segment(self, params: dict, segment: Segment, scores: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `QTransformer.decode_segment`."""
        return nnx.merge(self.graphdef, params).decode_segment(segment, scores)

    def encode_frame(
        self,
        params: dict,
        images: dict,
        camera_mask: dict,
        state: jax.Array,
        instruction: jax.Array,
        episode_return: jax.Array | None = None,
    ) -> Any:
        """Computes what is kept of frames; see `QTransformer.encode_frame`."""
        module = nnx.merge(self.graphdef, params)
        return module.encode_frame(images, camera_mask, state, instruction, episode_return)

    def greedy(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `QTransformer.greedy`."""
        return nnx.merge(self.graphdef, params).greedy(*inputs)

    def beam(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `QTransformer.beam`."""
        return nnx.merge(self.graphdef, params).beam(*inputs)

    def rank(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `QTransformer.rank`."""
        return nnx.merge(self.graphdef, params).rank(*inputs)


def parameter_count(params: dict) -> int:
    """Returns how many numbers the parameters are."""
    return sum(x.size for x in jax.tree.leaves(params))
