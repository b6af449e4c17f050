"""Compares two runtimes of a policy: on the same observations, the same scores and the same bins."""

from __future__ import annotations

from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.runtime import Action, Runtime, extras
from qt_jax.specs import PolicySpec

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""How far scores may differ, by compute dtype (default of this project): sums have another order."""

MOST_OTHER_ACTIONS = 0.5
"""Share of drawn actions that may be others (default of this project): a mistake makes nearly all so."""


def observations(spec: PolicySpec, rows: int, seed: int, step: int = 0) -> dict[str, Any]:
    """Returns random observations, the step and what the policy draws by, as `Runtime.act` takes them."""
    rng, observation = np.random.default_rng(seed), spec.interface.observation
    extra = extras(spec, rows)
    if "uniforms" in extra:
        extra["uniforms"] = rng.random(extra["uniforms"].shape, np.float32)
    if "step" in extra:
        extra["step"] += step
    return extra | {
        "images": {
            name: rng.integers(0, 256, (rows, *observation.image_size, 3), np.uint8)
            for name in observation.cameras
        },
        "state": rng.normal(size=(rows, observation.state_dim)).astype(np.float32),
        "instruction": rng.normal(scale=0.05, size=(rows, spec.interface.instruction_dim)).astype(np.float32),
    }


def compare(reference: Runtime, other: Runtime, dtype: str) -> dict[str, Any]:
    """Steps both through two episodes longer than the window, and compares scores of the same prefix.

    Behaviour probabilities, of policies that have them, count as scores.

    Args:
        reference: the policy to agree with.
        other: the policy that is checked.
        dtype: that both compute in, of `TOLERANCE`.

    Returns:
        {"decisions": how many were compared, "max_difference": of scores and rankings, "tolerance": what is
        allowed, "ties": share of dims whose two best bins differ by less than twice the tolerance in the
        reference, or of whose bins the behaviour head supports others, "other_bins": share of dims that chose
        another bin, all of them ties}. Of a policy that draws its actions, "ties" are those dims of an action
        which is another in the reference, since a number that was drawn lies where rounding decides between
        two bins, or two actions are worth the same.

    Raises:
        UserError: if a score or a ranking differs by more than the tolerance, or a bin differs that is no
            tie; or, of a policy that draws its actions, more than `MOST_OTHER_ACTIONS` of them are others.

    """
    rows, tolerance = min(reference.capacity, other.capacity), TOLERANCE[dtype]
    steps = 2 * reference.spec.window + 2
    episodes, worst, ties, differing, dims = np.arange(rows), 0.0, 0, 0, 0
    decided, other_actions = list(reference.spec.decided), 0
    for step in range(2 * steps):
        inputs = observations(reference.spec, rows, seed=step, step=step % steps)
        is_first = np.full(rows, step % steps == 0)
        expected = reference.act(episodes, **inputs, is_first=is_first)
        found = other.act(episodes, **inputs, is_first=is_first, executed=expected.tokens)

        same = expected.tokens == found.tokens
        earlier = np.pad(same[:, decided], [(0, 0), (1, 0)], constant_values=True)[:, :-1]
        prefix = np.cumprod(earlier, axis=1).astype(bool)[:, np.argsort(decided)]
        present, theirs = np.isfinite(expected.scores) & prefix[..., None], np.isfinite(found.scores)
        tie = _ties(expected, 2 * tolerance)
        if expected.behaviour is not None:
            assert found.behaviour is not None  # the programs are of one spec
            differences = np.abs(expected.behaviour - found.behaviour)[prefix]
            worst = max(worst, float(differences.max()))
            # Of a bin at the edge of `config.agent.support`, rounding decides whether it has a score.
            tie |= (np.isfinite(expected.scores) != theirs).any(axis=-1)
            present &= theirs
        differences = np.abs(expected.scores[present] - found.scores[present])
        worst = max(worst, float(differences.max(initial=0.0)))
        tie = prefix & (~same if reference.spec.decoding.draws else tie)
        if worst > tolerance or (~same & prefix & ~tie).any():
            raise _differ("scores", worst, dtype)
        ties += int(tie.sum())
        differing += int((~same & prefix).sum())
        dims += int(prefix.sum())
        other_actions += int((~same).any(axis=1).sum())

    if reference.spec.candidates:
        worst = max(worst, _compare_rankings(reference, other, dtype))
    decisions = 2 * steps * rows
    if reference.spec.decoding.draws and other_actions > MOST_OTHER_ACTIONS * decisions:
        raise UserError(
            f"The exported policy does not agree with its original: {other_actions} of {decisions} actions "
            f"that it draws are others, at most {MOST_OTHER_ACTIONS:.0%} may be. Report this with the "
            "config; export with --decode=greedy meanwhile."
        )
    return {
        "decisions": decisions,
        "max_difference": worst,
        "tolerance": tolerance,
        "ties": ties / dims,
        "other_bins": differing / dims,
    }


def _differ(what: str, worst: float, dtype: str) -> UserError:
    return UserError(
        f"The exported policy does not agree with its original: {what} differ by up to {worst:.3g}, "
        f"{TOLERANCE[dtype]:g} is allowed for {dtype}. Report this with the config; export from a float32 "
        "model meanwhile."
    )


def _compare_rankings(reference: Runtime, other: Runtime, dtype: str) -> float:
    """Ranks random candidates with both through a window; returns how far Q differs.

    Log-probabilities are compared as a dim's mean probability. A share of Q is not: it is a ratio of what is
    compared, and where Q is small a rounding error is not.

    Raises:
        UserError: if they differ by more than the tolerance.

    """
    spec, worst = reference.spec, 0.0
    own, dims = spec.interface, spec.interface.decision.dims
    shape = spec.candidates, own.chunk, own.action.dims
    for step in range(spec.window + 1):
        inputs = observations(spec, 1, seed=step, step=step)
        inputs.pop("uniforms", None)
        given = np.random.default_rng(step).uniform(own.action.low, own.action.high, shape)
        inputs |= {"is_first": np.full(1, step == 0), "proposed": given}
        (q, support), (its_q, its_support) = (x.rank(np.zeros(1, int), **inputs) for x in (reference, other))
        both = np.isfinite(q) & np.isfinite(its_q)  # rounding decides at the edge of `config.agent.support`
        differences = [np.abs(q - its_q)[both]]
        if spec.support_name == "log-probability":
            differences.append(np.abs(np.exp(support / dims) - np.exp(its_support / dims)))
        worst = max(worst, *(float(x.max(initial=0.0)) for x in differences))
    if worst > TOLERANCE[dtype]:
        raise _differ("rankings", worst, dtype)
    return worst


def _ties(action: Action, closer: float) -> np.ndarray:
    """Tells in which dims the two best bins' scores are closer than that, bool [M, D]."""
    best = np.sort(action.scores, axis=-1)[..., -2:]
    return best[..., 1] - best[..., 0] < closer


def summary(result: dict[str, Any], reference: str) -> str:
    """Returns the result of `compare` in one line."""
    return (
        f"agrees with {reference} in {result['decisions']} decisions: scores differ by up to "
        f"{result['max_difference']:.2g} ({result['tolerance']:g} allowed), {result['ties']:.1%} of dims are "
        f"ties, {result['other_bins']:.1%} chose another bin"
    )
