"""`make bench-backups`: what each backup costs, at the quickstart's and RT-1's size.

"skip_decoded" decodes an action at every step of the segment; the others take one teacher-forced pass. At the
quickstart's size this is the time of a train step. At RT-1's, whose step takes minutes to compile on a CPU,
it is that of the target network's pass alone, on one short segment: about a quarter of a step, and the only
part that differs, so a step's ratio is nearer to 1; "skip_first_dim" takes the pass of "chain" and is left
out. Medians of backups that take turns, and their ratios. Writes experiments/results/bench_backups.json.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax

from benchmarks import runs, turns
from benchmarks.learner_step import as_peer, shipped
from qt_jax.agents import q_transformer
from qt_jax.losses import BACKUPS

RESULTS = Path("experiments/results/bench_backups.json")
RT1_SEGMENTS = {"batch_size": 1, "segment_length": 9}
STEP_REPEATS, PASS_REPEATS = 30, 10


def settings(backup: str) -> dict[str, Any]:
    """Returns what makes a config have this backup, of two steps."""
    return {"agent.backup": backup, "agent.n_step": 2}


def rt1_target_pass(backup: str) -> turns.Way:
    """Returns a function that computes the targets of a batch of RT-1's size and waits for them."""
    config, interface = as_peer("rt1")
    config.data.update(RT1_SEGMENTS)
    config, ensemble, batch = turns.made(config, interface, settings(backup))
    params = jax.jit(ensemble.init)(jax.random.key(0))
    targets = jax.jit(functools.partial(q_transformer.targets, config, ensemble))
    return lambda: jax.block_until_ready(targets(params, batch))


def compared(ways: dict[str, turns.Way], repeats: int) -> dict[str, Any]:
    """Returns the seconds with each backup, and those of "skip_decoded" over the others'."""
    seconds = turns.medians(ways, repeats)
    others = {name: seconds["skip_decoded"] / seconds[name] for name in ways if name != "skip_decoded"}
    return {"seconds": seconds, "skip_decoded over": others}


def main() -> None:
    commit = runs.code_commit("benchmarks")
    steps = {backup: turns.step(*shipped("quickstart"), settings(backup)) for backup in BACKUPS}
    passes = {backup: rt1_target_pass(backup) for backup in ("chain", "skip_decoded")}
    found = {
        "a step of the quickstart": compared(steps, STEP_REPEATS),
        "a target pass of RT-1": compared(passes, PASS_REPEATS) | RT1_SEGMENTS,
    }
    runs.write(RESULTS, commit=commit, **found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
