"""Compares two runtimes of a policy: on the same observations, the same scores and the same bins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from qt_jax.errors import UserError
from qt_jax.policy.runtime import Action, Runtime, extras
from qt_jax.specs import PolicySpec

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""How far scores may differ, by compute dtype (default of this project): sums have another order."""

ROUNDED = {"float16": 5e-3, "int8": 5e-2}
"""How far scores may differ in the mean, by the precision of a program (default of this project)."""
LEAST_GOOD_BINS = 0.95
"""Share of dims that must choose the same bin in a lower precision, or one as good (of this project)."""

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
    tolerance, worst, ties, differing, dims = TOLERANCE[dtype], 0.0, 0, 0, 0
    decisions = other_actions = 0
    for expected, found, prefix in _steps(reference, other):
        same = expected.tokens == found.tokens
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
        decisions += len(same)
        other_actions += int((~same).any(axis=1).sum())

    if reference.spec.candidates:
        worst = max(worst, float(_ranking_differences(reference, other).max(initial=0.0)))
        if worst > tolerance:
            raise _differ("rankings", worst, dtype)
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


def compare_rounded(reference: Runtime, other: Runtime, precision: str) -> dict[str, Any]:
    """Compares as `compare` does with a policy of a lower precision, which cannot have the same scores.

    Args:
        reference: the policy to agree with.
        other: the policy that is checked.
        precision: its, of `ROUNDED`.

    Returns:
        {"decisions": how many were compared, "mean_difference": of all scores of the same prefix, or of
        rankings where it is greater, "tolerance": what is allowed of it, "equal_bins": share of dims that
        chose the same bin, "good_bins": share that chose it or one whose score in the reference is less than
        twice the tolerance below its}.

    Raises:
        UserError: if the scores differ by more than the tolerance in the mean, or fewer than
            `LEAST_GOOD_BINS` are good.

    """
    tolerance, decisions = ROUNDED[precision], 0
    differences, equal, good = [], [], []
    for expected, found, prefix in _steps(reference, other):
        decisions += len(prefix)
        present = np.isfinite(expected.scores) & prefix[..., None]
        if expected.behaviour is not None:  # rounding decides at the edge of `config.agent.support`
            present &= np.isfinite(found.scores)
        differences.append(np.abs(expected.scores[present] - found.scores[present]))
        same = expected.tokens == found.tokens
        taken = np.take_along_axis(expected.scores, found.tokens[..., None], axis=-1)[..., 0]
        equal.append(same[prefix])
        good.append((same | (expected.chosen - taken < 2 * tolerance))[prefix])
    result = {
        "decisions": decisions,
        "mean_difference": float(np.concatenate(differences).mean()),
        "tolerance": tolerance,
        "equal_bins": float(np.concatenate(equal).mean()),
        "good_bins": float(np.concatenate(good).mean()),
    }
    if reference.spec.candidates:
        of_rankings = float(_ranking_differences(reference, other).mean())
        result["mean_difference"] = float(np.maximum(result["mean_difference"], of_rankings))
    if not (result["mean_difference"] <= tolerance and result["good_bins"] >= LEAST_GOOD_BINS):  # NaN too
        raise UserError(
            f"The policy in {precision} does not agree with its original: scores differ by "
            f"{result['mean_difference']:.3g} in the mean ({tolerance:g} is allowed), and "
            f"{result['good_bins']:.1%} of dims chose the same bin or one as good ({LEAST_GOOD_BINS:.0%} "
            "must). Nothing is kept; use --precision=float32."
        )
    return result


def _steps(reference: Runtime, other: Runtime) -> Iterator[tuple[Action, Action, np.ndarray]]:
    """Steps both through two episodes longer than the window, on the same observations.

    Yields:
        What each did, and bool [M, D]: dims before which both chose the same bins.

    """
    rows, decided = min(reference.capacity, other.capacity), list(reference.spec.decided)
    episodes, steps = np.arange(rows), 2 * reference.spec.window + 2
    for step in range(2 * steps):
        inputs = observations(reference.spec, rows, seed=step, step=step % steps)
        is_first = np.full(rows, step % steps == 0)
        expected = reference.act(episodes, **inputs, is_first=is_first)
        found = other.act(episodes, **inputs, is_first=is_first, executed=expected.tokens)
        same = expected.tokens == found.tokens
        earlier = np.pad(same[:, decided], [(0, 0), (1, 0)], constant_values=True)[:, :-1]
        yield expected, found, np.cumprod(earlier, axis=1).astype(bool)[:, np.argsort(decided)]


def _differ(what: str, worst: float, dtype: str) -> UserError:
    return UserError(
        f"The exported policy does not agree with its original: {what} differ by up to {worst:.3g}, "
        f"{TOLERANCE[dtype]:g} is allowed for {dtype}. Report this with the config; export from a float32 "
        "model meanwhile."
    )


def _ranking_differences(reference: Runtime, other: Runtime) -> np.ndarray:
    """Ranks random candidates with both through a window; returns how far Q and support differ, float [N].

    Log-probabilities are compared as a dim's mean probability. A share of Q is not: it is a ratio of what is
    compared, and where Q is small a rounding error is not.
    """
    spec, differences = reference.spec, []
    own, dims = spec.interface, spec.interface.decision.dims
    shape = spec.candidates, own.chunk, own.action.dims
    for step in range(spec.window + 1):
        inputs = observations(spec, 1, seed=step, step=step)
        inputs.pop("uniforms", None)
        given = np.random.default_rng(step).uniform(own.action.low, own.action.high, shape)
        inputs |= {"is_first": np.full(1, step == 0), "proposed": given}
        (q, support), (its_q, its_support) = (x.rank(np.zeros(1, int), **inputs) for x in (reference, other))
        both = np.isfinite(q) & np.isfinite(its_q)  # rounding decides at the edge of `config.agent.support`
        differences.append(np.abs(q - its_q)[both])
        if spec.support_name == "log-probability":
            differences.append(np.abs(np.exp(support / dims) - np.exp(its_support / dims)))
    return np.concatenate(differences)


def _ties(action: Action, closer: float) -> np.ndarray:
    """Tells in which dims the two best bins' scores are closer than that, bool [M, D]."""
    best = np.sort(action.scores, axis=-1)[..., -2:]
    return best[..., 1] - best[..., 0] < closer


def summary(result: dict[str, Any], reference: str) -> str:
    """Returns the result of `compare` or `compare_rounded` in one line."""
    if "good_bins" in result:
        return (
            f"agrees with {reference} in {result['decisions']} decisions: scores differ by "
            f"{result['mean_difference']:.2g} in the mean ({result['tolerance']:g} allowed), "
            f"{result['equal_bins']:.1%} of dims chose the same bin, {result['good_bins']:.1%} it or one as "
            f"good ({LEAST_GOOD_BINS:.0%} needed)"
        )
    return (
        f"agrees with {reference} in {result['decisions']} decisions: scores differ by up to "
        f"{result['max_difference']:.2g} ({result['tolerance']:g} allowed), {result['ties']:.1%} of dims are "
        f"ties, {result['other_bins']:.1%} chose another bin"
    )
