"""Validation: the agent's own sums on held-out episodes, and what values, greedy bins and attention do there.

For agents with values it reads a sample of training episodes too, as large as the held-out one and always
the same: what a network knows by heart differs between the two. Where several datasets train together, all of
it is measured of each one too.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qt_jax import agents, losses
from qt_jax.agents import greedy_bins
from qt_jax.data import loader, validation_segments
from qt_jax.data.order import Draw
from qt_jax.data.skips import Skips
from qt_jax.models.ensemble import Ensemble
from qt_jax.models.watched import Watched
from qt_jax.segment import Segment
from qt_jax.training import mesh, traced
from qt_jax.training.program import Program
from qt_jax.training.state import TrainState, targets_of

MAX_BATCHES = 32
"""Of the held-out episodes, and as many of the training ones."""


def step(config: Any, ensemble: Ensemble, state: TrainState, batch: Segment) -> dict[str, Any]:
    """Computes a batch's outputs without an update.

    Returns:
        "sums": {name: (sum, count)}, the agent's, of the greedy bins and of the attention entropies. "bins":
        {"taken", "greedy"}: how often each bin of each dim is either, [D, N]. For agents with values also
        "values": {outcome: {"q", "q_bias"}} as sums over transitions, and "firsts", the value of each
        segment's first step, with whether the episode begins there and succeeded.

    """
    agent, config = agents.get(config.agent.name), traced.With(config, state.settings)
    batch = ensemble.seen(state.params, batch)
    targets = targets_of(config, ensemble, state, batch)

    def of_network(params: dict) -> dict[str, losses.Sum]:
        watched = Watched.of(ensemble.network, params)
        return agent.loss(config, watched, params, targets, batch, None) | watched.entropies()

    sums = jax.tree.map(jnp.sum, ensemble.each(of_network, state.params))
    max_bins = ensemble.interface.action.max_bins
    bin_mask = jnp.asarray(batch.bin_mask(max_bins))[:, None]
    mask = batch.trainable[..., None] & batch.action_mask
    logits = ensemble.score(state.params, batch)
    greedy = jnp.argmax(agent.scores(config, bin_mask, logits), axis=-1)
    sums |= greedy_bins.sums(greedy, batch, mask)
    candidates = agent.candidates(config)
    if candidates is not None and not agent.ADDITIVE:  # else their probabilities are the scores
        probable = jnp.argmax(candidates(bin_mask, logits)[0], axis=-1)
        sums["greedy_is_most_probable"] = losses.masked_sum(greedy == probable, mask)
    counted = {"taken": batch.tokens, "greedy": greedy}
    bins = {name: greedy_bins.counts(tokens, mask, max_bins) for name, tokens in counted.items()}
    if agent.action_values is None:
        return {"sums": sums, "bins": bins}

    values = agent.action_values(config, ensemble, state.params, batch)
    firsts = {"value": values[:, 0], "is_first": batch.is_first[:, 0], "success": batch.success}
    return {"sums": sums, "bins": bins, "values": by_outcome(values, batch), "firsts": firsts}


def by_outcome(values: jax.Array, batch: Segment) -> dict[str, dict[str, losses.Sum]]:
    """Adds up values [B, S] of trainable steps, and values less the return that followed, of each outcome."""
    parts = {"q": values, "q_bias": values - batch.mc_return}
    rows = {"success": batch.success, "failure": ~batch.success}
    return {
        outcome: {name: losses.masked_sum(x, batch.trainable & own[:, None]) for name, x in parts.items()}
        for outcome, own in rows.items()
    }


@dataclasses.dataclass(frozen=True)
class Validation:
    """The held-out episodes of a run, and the compiled `step` that looks at them.

    held_out, trained: {dataset: segments} of held-out and of training episodes, the latter for agents with
    values alone; compiled: (state, batch) -> outputs of `step` on every device.
    """

    recipe: loader.Recipe
    held_out: dict[str, list[Draw]]
    trained: dict[str, list[Draw]]
    compiled: jax.stages.Compiled
    mesh: jax.sharding.Mesh
    batch_size: int

    @classmethod
    def of(
        cls, config: Any, recipe: loader.Recipe, ensemble: Ensemble, program: Program
    ) -> Validation | None:
        """Makes the validation of a run, and compiles its `step`; None without held-out episodes.

        Call it before the first step: later, a signal would have to wait for it.
        """
        held_out = validation_segments.held_out(recipe, MAX_BATCHES * config.data.batch_size)
        if not held_out:
            return None
        has_values = agents.has_values(config.agent.name)
        trained = validation_segments.trained(recipe, len(held_out)) if has_values else []
        jitted = jax.jit(
            functools.partial(step, config, ensemble),
            in_shardings=jax.tree.map(lambda x: x.sharding, (program.state, program.batch)),
            out_shardings=mesh.replicated(program.mesh),
        )
        compiled = jitted.lower(program.state, program.batch).compile()
        of_datasets = _by_dataset(recipe, held_out), _by_dataset(recipe, trained)
        return cls(recipe, *of_datasets, compiled, program.mesh, config.data.batch_size)

    def measure(
        self, state: TrainState, skips: Skips, stop: Callable[[], bool] | None = None
    ) -> dict[str, float] | None:
        """Computes all that `summaries` names. Returns None if `stop` says so on the way."""
        outputs = []
        for draws in (self.held_out, self.trained):
            of_datasets = {}
            for name, own in draws.items():
                if (found := self._outputs(own, state, skips, stop)) is None:
                    return None
                of_datasets[name] = found
            outputs.append(of_datasets)
        return summaries(*outputs)

    def _outputs(
        self, draws: list[Draw], state: TrainState, skips: Skips, stop: Callable[[], bool] | None
    ) -> list[dict[str, Any]] | None:
        rows = mesh.local_rows(self.mesh, self.batch_size)
        outputs = []
        for local in validation_segments.batches(
            self.recipe, draws, rows=rows, batch_size=self.batch_size, skips=skips
        ):
            if stop and stop():
                return None
            batch = mesh.put_batch(local, self.mesh, self.batch_size)
            outputs.append(jax.device_get(self.compiled(state, batch)))
        return outputs


def _by_dataset(recipe: loader.Recipe, draws: list[Draw]) -> dict[str, list[Draw]]:
    """Returns the draws of each dataset, by its name."""
    names = [source.name for source in recipe.mixture.sources]
    return {name: [draw for draw in draws if draw.source == number] for number, name in enumerate(names)}


def summaries(
    held_out: dict[str, list[dict[str, Any]]], trained: dict[str, list[dict[str, Any]]]
) -> dict[str, float]:
    """Computes `summary` of {dataset: outputs of `step`}: of all, and of each where there are several.

    The metrics of a dataset have its name after the first word: "validation/NAME/loss".
    """
    result = summary(*(list(itertools.chain(*of_all.values())) for of_all in (held_out, trained)))
    if len(held_out) > 1:
        for name, own in held_out.items():
            found = summary(own, trained[name]) if own else {}
            result |= {metric.replace("/", f"/{name}/", 1): value for metric, value in found.items()}
    return result


def summary(held_out: list[dict[str, Any]], trained: list[dict[str, Any]]) -> dict[str, float]:
    """Computes the metrics of the outputs of `step` for held-out and for training segments.

    "validation/NAME" are means over held-out transitions: the agent's sums; "q/OUTCOME", the Q of what was
    done, and "q_bias/OUTCOME", the same less the return that followed; "taken_is_most_frequent" and
    "greedy_is_most_frequent", of each dim's bin that was taken most often; "auc_first_q", of the first step's
    value against success. "memorisation/OUTCOME" is Q of training episodes less that of held-out ones. What
    only an outcome that no episode has would tell is left out.
    """
    result = {
        f"validation/{name}": value for name, value in _means([output["sums"] for output in held_out]).items()
    }
    taken, greedy = (sum(output["bins"][name] for output in held_out) for name in ("taken", "greedy"))
    frequent = np.arange(len(taken)), taken.argmax(-1)
    for name, counts in (("taken", taken), ("greedy", greedy)):
        share = counts[frequent].sum() / max(counts.sum(), 1.0)
        result[f"validation/{name}_is_most_frequent"] = float(share)
    if "values" not in held_out[0]:
        return result

    values, by_heart = _of_outcomes(held_out), _of_outcomes(trained)
    result |= {f"validation/{name}": value for name, value in values.items()}
    for name in values:
        if name.startswith("q/") and name in by_heart:
            result[name.replace("q/", "memorisation/")] = by_heart[name] - values[name]
    firsts = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(output["firsts"] for output in held_out))
    first, success = firsts["value"][firsts["is_first"]], firsts["success"][firsts["is_first"]]
    if success.any() and not success.all():
        greater = np.sign(first[success][:, None] - first[~success])  # of each pair; a tie counts half
        result["validation/auc_first_q"] = float((1.0 + greater.mean()) / 2)
    return result


def _of_outcomes(outputs: list[dict[str, Any]]) -> dict[str, float]:
    """Returns {"q/OUTCOME", "q_bias/OUTCOME": mean} of the outcomes that occur."""
    found: dict[str, float] = {}
    for outcome in outputs[0]["values"] if outputs else ():
        parts = [output["values"][outcome] for output in outputs]
        if sum(float(part["q"][1]) for part in parts):
            found |= {f"{name}/{outcome}": mean for name, mean in _means(parts).items()}
    return found


def _means(batches: list[dict[str, losses.Sum]]) -> dict[str, float]:
    """Adds up {name: (sum, count)} over batches, and divides once."""
    totals = jax.tree.map(lambda *leaves: sum(map(float, leaves)), *batches)
    return {name: total / max(count, 1.0) for name, (total, count) in totals.items()}
