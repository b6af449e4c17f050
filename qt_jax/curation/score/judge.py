"""The networks that judge a dataset: one a fold, trained on all other folds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from qt_jax import agents, losses
from qt_jax.data import validation_segments
from qt_jax.data.loader import Recipe
from qt_jax.data.order import Draw
from qt_jax.data.skips import Skips
from qt_jax.data.tables import Entry
from qt_jax.errors import UserError
from qt_jax.models.ensemble import Ensemble
from qt_jax.segment import Segment
from qt_jax.training import checkpoints, setup

SCORED = "Q"
"""`SCORE_NAME` of the agents whose best action has a value too."""


def of_fold(config: Any, fold: int, folds: int) -> ml_collections.ConfigDict:
    """Returns the config of the run that leaves fold `fold` of `folds` out; it has a folder of its own."""
    own = ml_collections.ConfigDict(config).copy_and_resolve_references()
    own.data.fold = (fold, folds)
    own.workdir = f"{config.workdir}/fold_{fold}_of_{folds}"
    return own


def is_trained(config: Any) -> bool:
    """Returns whether the run of this config has its last step."""
    return checkpoints.exists(config.workdir) and (
        checkpoints.latest_step(config.workdir) >= config.train.steps
    )


@dataclasses.dataclass(frozen=True)
class Judge:
    """The network of one fold, and the segments that it looks at.

    recipe: what a segment holds; params: of the networks; step: of the checkpoint; batch_size: segments;
    memory: bytes of encoded episodes that are kept; skips: frames that do not decode; compiled: (params,
    batch) -> q, value [B, S].
    """

    recipe: Recipe
    params: dict
    step: int
    batch_size: int
    memory: int
    skips: Skips
    compiled: Callable[[dict, Segment], tuple[jax.Array, jax.Array]]

    @classmethod
    def load(cls, config: Any, entries: Sequence[Entry]) -> Judge:
        """Loads the run of a fold (`of_fold`).

        Raises:
            UserError: if it is not there, is of other data or another config, or its agent has no values.

        """
        agent = agents.get(config.agent.name)
        if agent.SCORE_NAME != SCORED:
            raise UserError(
                f"config.agent.name is {config.agent.name!r}, whose scores are of kind {agent.SCORE_NAME!r}; "
                "`score` writes values: take q_transformer or cql."
            )
        config, recipe, assets = setup.prepare(ml_collections.FrozenConfigDict(config), entries)
        checkpoints.check_same_run(config.workdir, assets)
        params, _, step = checkpoints.load_params(config.workdir)
        recipe = dataclasses.replace(recipe, idle=None)  # an idle step is judged too
        ensemble = agents.make_ensemble(config, recipe.mixture.interface)

        def values(params: dict, batch: Segment) -> tuple[jax.Array, jax.Array]:
            return step_values(config, ensemble, params, batch)

        skips = Skips(recipe.mixture, recipe.max_skipped)
        memory = config.data.memory_mib * 2**20
        return cls(recipe, params, step, config.data.batch_size, memory, skips, jax.jit(values))

    def values(self, number: int, episodes: np.ndarray) -> dict[int, np.ndarray]:
        """Computes q and value of each step of episodes, {episode: float32 [2, T]}.

        Args:
            number: of the dataset in the mixture.
            episodes: numbers in its index, of any fold.

        Returns:
            NaN where a frame of the segment does not decode, which `config.data.max_skipped` has to allow.

        """
        source, cutting = self.recipe.mixture.sources[number], self.recipe.cutting
        lengths = source.index.columns["length"]
        draws = [
            Draw(number, int(episode), cut, 0, 0)
            for episode in episodes
            for cut in range(len(cutting.starts(int(lengths[episode]))))
        ]
        found = {int(episode): np.full((2, lengths[episode]), np.nan, np.float32) for episode in episodes}
        for draw, trainable, values in self._segments(draws):
            start = cutting.starts(int(lengths[draw.episode]))[draw.cut]
            position = np.flatnonzero(trainable)
            found[draw.episode][:, start + position] = values[:, position]
        return found

    def _segments(self, draws: list[Draw]) -> Iterator[tuple[Draw, np.ndarray, np.ndarray]]:
        """Yields each draw with its trainable steps, bool [S], and their q and value, [2, S].

        The next batch is read while the device works on this one.
        """
        size = self.batch_size
        reading = validation_segments.batches(
            self.recipe, draws, batch_size=size, skips=self.skips, memory=self.memory
        )
        before = None
        for place, batch in zip(range(0, len(draws) + size, size), itertools.chain(reading, [None])):
            running = batch and (batch.trainable, self.compiled(self.params, batch))
            if before:
                values = np.stack(jax.device_get(before[1]), axis=1)
                yield from zip(draws[place - size : place], before[0], values)
            before = running


def step_values(
    config: Any, ensemble: Ensemble, params: dict, segment: Segment
) -> tuple[jax.Array, jax.Array]:
    """Computes of each step Q of the action taken and the state's value, both [B, S].

    The value is what a backup would go on from: the greatest Q of the first dim that is present.
    """
    agent = agents.get(config.agent.name)
    segment = ensemble.seen(params, segment)
    bin_mask = jnp.asarray(segment.bin_mask(ensemble.interface.action.max_bins))[:, None]
    maxima = agent.scores(config, bin_mask, ensemble.score(params, segment)).max(-1)
    value = jax.vmap(losses.state_value)(maxima, segment.action_mask)
    return agent.action_values(config, ensemble, params, segment), value
