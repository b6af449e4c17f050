"""From a config and its datasets to what the learner is fed, and the assets that its checkpoints need."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from qt_jax import agents
from qt_jax.agents import backup
from qt_jax.data import index as indices
from qt_jax.data import mixture, returns
from qt_jax.data.idle import Idle
from qt_jax.data.loader import Recipe
from qt_jax.data.mixture import Mixture, Source
from qt_jax.data.segments import Cutting
from qt_jax.data.tables import Entry
from qt_jax.errors import UserError
from qt_jax.specs import Interface
from qt_jax.statistics import Statistics
from qt_jax.training import checkpoints, origin
from qt_jax.training.assets import Assets, DatasetAssets, plain_config

LOOKED_AT = 50
"""Episodes of a dataset in which idle steps are counted."""


def prepare(
    config: Any, entries: Sequence[Entry], any_returns: bool = False
) -> tuple[ml_collections.FrozenConfigDict, Recipe, Assets]:
    """Returns the config with its value range, the recipe of its segments, and the assets.

    State statistics are each dataset's own, or those of the dataset that it is like. A run that started from
    another (`config.train.init_from`) takes that one's, where it had the dataset.

    Args:
        config: the experiment's.
        entries: the datasets.
        any_returns: also those outside the value range, to look at them.

    Raises:
        UserError: for bad data, returns outside the value range where the agent has values, timesteps that no
            episode reaches, or a run to start from whose outputs mean something else.

    """
    opened = mixture.open_mixture(config.data, entries)

    def column(name: str) -> np.ndarray:
        return np.concatenate([source.index.columns[name] for source in opened.sources])

    longest = int(column("length").max())
    if config.model.chunk > longest:
        raise UserError(
            f"config.model.chunk is {config.model.chunk}, the longest episode has {longest} actions; give at "
            "most as many."
        )
    opened = dataclasses.replace(opened, interface=with_chunks(config, opened.interface))
    config = with_value_range(config, float(column("dt").min()), longest)
    if not any_returns:
        _check_timesteps(config, opened)
        if agents.has_values(config.agent.name):
            returns.check(opened, config)
    recipe = Recipe(
        mixture=opened,
        cutting=Cutting(
            length=config.data.segment_length,
            window=config.model.window,
            n_step=backup.steps(config),
            apart=opened.interface.execute,
        ),
        discount=config.discount,
        dt_ref=config.dt_ref,
        value_range=config.value_range,
        step_penalty=config.data.step_penalty,
        time_limits=config.data.time_limits,
        idle=Idle.read(config.data.idle),
        relabel_rate=config.data.relabel_rate,
        paraphrase_cosine=config.data.paraphrase_cosine,
        seed=config.seed,
        cache=config.data.cache,
        max_skipped=config.data.max_skipped,
        state_statistics=_state_statistics(config, opened, continues=not any_returns),
        people_alone=config.data.episodes == mixture.INTERVENTIONS,
    )
    conditioned = agents.get(config.agent.name).RETURN_CONDITIONED
    datasets = {
        source.name: DatasetAssets(
            interface=dataclasses.replace(
                opened.interface, action=source.action, observation=source.spec.observation
            ),
            state=recipe.state_statistics[source.name],
            actions=source.index.statistics["action"],
            dt=float(np.median(source.index.columns["dt"])),
            target_return=returns.target(source, config) if conditioned else None,
        )
        for source in opened.sources
        if not source.like
    }
    assets = Assets(
        interface=opened.interface,
        datasets=datasets,
        text_encoder=opened.text_encoder,
        config=plain_config(config),
        data_fingerprint=opened.fingerprint,
        data=opened.success(),
    )
    if config.train.init_from and not checkpoints.exists(config.workdir):
        origin.check(config.train.init_from, assets)
    return config, recipe, assets


def with_chunks(config: Any, interface: Interface) -> Interface:
    """Returns the interface of a network that decides and executes as many actions as `config.model` says."""
    chunk = config.model.chunk
    return dataclasses.replace(interface, chunk=chunk, execute=config.model.execute or chunk)


def with_value_range(config: Any, shortest_dt: float, longest: int = 0) -> ml_collections.FrozenConfigDict:
    """Returns the config with a value range; an empty one becomes that of 1 for success and the penalties.

    Args:
        config: the experiment's.
        shortest_dt: seconds of the data's shortest step.
        longest: steps of the data's longest episode, which a message names; 0: not known.

    Raises:
        UserError: if penalties without a discount have no such bound.

    """
    resolved = ml_collections.ConfigDict(config)
    if not resolved.value_range:
        low, penalty = 0.0, config.data.step_penalty
        if penalty:
            gamma = config.discount ** (shortest_dt / config.dt_ref)
            if gamma >= 1 and agents.has_values(config.agent.name):
                known = f"; the longest of the data has {longest}, which makes ({-penalty * longest:g}, 1)"
                raise UserError(
                    f"config.discount is 1 with config.data.step_penalty={penalty:g}: returns have no bound. "
                    f"Set config.value_range to (-{penalty:g} x the most steps that an episode may have, 1)"
                    f"{known if longest else ''}.",
                    topic="returns",
                )
            low = -penalty / (1.0 - gamma) if gamma < 1 else 0.0
        resolved.value_range = (low, 1.0)
    return ml_collections.FrozenConfigDict(resolved)


def _check_timesteps(config: Any, opened: Mixture) -> None:
    """Raises a UserError if a step that no training episode has would have an embedding of its own."""
    timesteps = config.agent.get("timesteps", 0)
    if not timesteps:
        return
    longest = max(int(source.index.columns["length"][source.train].max()) for source in opened.sources)
    if timesteps > longest:
        raise UserError(
            f"config.agent.timesteps is {timesteps}; the longest training episode has {longest} steps, and "
            f"what is never trained would act. Give at most {longest}; later steps take the last embedding."
        )


def _state_statistics(config: Any, opened: Mixture, continues: bool) -> dict[str, Statistics]:
    found = _of_robots(config, opened, continues)
    return {source.name: found[source.like or source.name] for source in opened.sources}


def _of_robots(config: Any, opened: Mixture, continues: bool) -> dict[str, Statistics]:
    own = {source.name: source.index.statistics["state"] for source in opened.sources}
    started_from = config.train.init_from
    if not (continues or started_from):
        return own
    before = None
    if checkpoints.exists(config.workdir):  # which says itself whether it started from another
        before = checkpoints.load_assets(config.workdir)
        started_from = started_from or before.config["train"]["init_from"]
    if not started_from:
        return own
    # The parameters were trained on inputs that these statistics normalised.
    datasets = (before or checkpoints.load_assets(started_from)).datasets
    return {name: datasets[name].state if name in datasets else values for name, values in own.items()}


def _idle(recipe: Recipe, idle: Idle, source: Source) -> str:
    """Returns the share of idle steps in `LOOKED_AT` training episodes, at even distances."""
    found = []
    for number in source.train[:: -(-len(source.train) // LOOKED_AT)]:
        episode = indices.read(
            source.directory, source.index, source.spec, int(number), recipe.step_penalty, recipe.cache
        )
        found.append(idle.steps(source.action, episode.actions))
    share = np.concatenate(found).mean()
    return (
        f"idle: {share:.1%} of the steps of {len(found)} training episodes move nothing and are not trained"
    )


def describe(recipe: Recipe) -> str:
    """Returns a line for each dataset: what was found, what was left out, what the bins cut off."""
    lines = []
    for source in recipe.mixture.sources:
        index, action = source.index, source.action
        shares = zip(action.names, source.clipped())
        clipped = ", ".join(f"{name} {share:.2%}" for name, share in shares if share > 0)
        lines.append(
            f"{source.name}: {len(source.train)} training and {len(source.validation)} validation episodes "
            f"of {len(index)}, {index.columns['success'].mean():.0%} successful, weight {source.weight:.3g}; "
            f"actions beyond the bins: {clipped or 'nothing'}"
        )
        lines += [f"  {line}" for line in (*source.notes(), *source.outliers())]
        if recipe.idle and len(source.train):
            lines.append(f"  {_idle(recipe, recipe.idle, source)}")
        if index.left_out:
            lines.append(f"  {index.left_out} episodes are left out by {source.spec.reader}")
        if index.skipped:
            count, first = sum(index.skipped.values()), next(iter(index.skipped))
            lines.append(f"  {count} damaged episodes are skipped, the first: {first}")
    return "\n".join(lines)
