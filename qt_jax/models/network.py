"""The module of models/q_transformer.py as pure functions of its parameters: one network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from flax import nnx

from qt_jax.models import decoding
from qt_jax.models.q_transformer import QTransformer
from qt_jax.segment import Segment
from qt_jax.specs import Interface


@dataclasses.dataclass(frozen=True)
class Network:
    """The module as pure functions of a nested dict of parameters, which checkpoints and artefacts hold.

    See `QTransformer` for the fields; models/ensemble.py is what an experiment has.
    """

    config: ml_collections.FrozenConfigDict
    interface: Interface
    outputs: int
    return_conditioned: bool
    timesteps: int
    cells: int
    graphdef: Any = dataclasses.field(compare=False, repr=False)
    _fresh: Callable[[jax.Array], dict] = dataclasses.field(compare=False, repr=False)

    @classmethod
    def create(
        cls,
        config: Any,
        interface: Interface,
        outputs: int,
        return_conditioned: bool,
        timesteps: int = 0,
        cells: int = 1,
    ) -> Network:
        """Makes the network of `config`, an experiment's `config.model`; allocates nothing.

        Raises:
            UserError: for a setting without a meaning.

        """
        config = ml_collections.FrozenConfigDict(config)
        asked = config, interface, outputs, return_conditioned, timesteps, cells
        graphdefs = []

        @jax.jit  # traced here, and not again
        def fresh(key: jax.Array) -> dict:
            graphdef, params = nnx.split(QTransformer(*asked, nnx.Rngs(key)))
            graphdefs.append(graphdef)
            return nnx.to_pure_dict(params)

        jax.eval_shape(fresh, jax.random.key(0))
        return cls(*asked, graphdefs[0], fresh)

    @property
    def _asked(self) -> tuple[Any, Interface, int, bool, int, int]:
        """What `create` was given."""
        return self.config, self.interface, self.outputs, self.return_conditioned, self.timesteps, self.cells

    def with_config(self, config: Any) -> Network:
        """Returns the same network with another `config.model`."""
        config = ml_collections.FrozenConfigDict(config)
        return self if config == self.config else Network.create(config, *self._asked[1:])

    def init(self, key: jax.Array) -> dict:
        """Returns fresh parameters; the same key gives the same bits."""
        return self._fresh(key)

    def frozen_features(self, params: dict, images: dict) -> dict:
        """Computes what frozen encoders make of frames; see `QTransformer.frozen_features`."""
        return nnx.merge(self.graphdef, params).frozen_features(images)

    def score(self, params: dict, segment: Segment, dropout_key: jax.Array | None = None) -> jax.Array:
        """Computes logits; see `QTransformer.score`. Without a key there is no dropout."""
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        return nnx.merge(self.graphdef, params).score(segment, rngs)

    def score_watched(
        self, params: dict, segment: Segment, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Computes logits and attention entropies; see `QTransformer.score_watched`."""
        rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
        return nnx.merge(self.graphdef, params).score_watched(segment, rngs)

    def decode_segment(self, params: dict, segment: Segment, scores: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.decode_segment`."""
        return decoding.decode_segment(nnx.merge(self.graphdef, params), segment, scores)

    def encode_frame(
        self,
        params: dict,
        images: dict,
        camera_mask: dict,
        state: jax.Array,
        instruction: jax.Array,
        episode_return: jax.Array | None = None,
        step: jax.Array | None = None,
    ) -> Any:
        """Computes what is kept of frames; see `QTransformer.encode_frame`."""
        module = nnx.merge(self.graphdef, params)
        return module.encode_frame(images, camera_mask, state, instruction, episode_return, step)

    def greedy(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.greedy`."""
        return decoding.greedy(nnx.merge(self.graphdef, params), *inputs)

    def beam(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.beam`."""
        return decoding.beam(nnx.merge(self.graphdef, params), *inputs)

    def rank(self, params: dict, *inputs: Any) -> tuple[jax.Array, jax.Array]:
        """Decodes actions; see `decoding.rank`."""
        return decoding.rank(nnx.merge(self.graphdef, params), *inputs)

    def judge(self, params: dict, *inputs: Any) -> Any:
        """Judges given actions; see `decoding.judge`."""
        return decoding.judge(nnx.merge(self.graphdef, params), *inputs)


def parameter_path(path: tuple[Any, ...]) -> str:
    """Joins the dict keys of a path, as in `transformer/blocks/query/kernel`.

    The other keys are left out, so that an optimiser's moment has the path of its parameter.
    """
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def parameter_count(params: dict) -> int:
    """Returns how many numbers the parameters are."""
    return sum(x.size for x in jax.tree.leaves(params))
