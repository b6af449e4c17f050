"""`python -m benchmarks.ogbench_subgoals ROW [--workdir RUN] [--decode D]`: what a policy does in a task.

ROW is a run of experiments/ogbench.py on one task. Prints for each episode when which subgoal was met (+) or
undone (-), in decisions; then how often each was met at the end, and how often a subgoal changes in 100
decisions of the policy and of the play that it learned from. Two minutes of a core.
"""

from __future__ import annotations

import argparse

import numpy as np

import qt_jax
from experiments import ogbench
from qt_jax.envs import ogbench_goals, ogbench_play
from qt_jax.policy.loaded import LoadedPolicy

FIRST_SEED = 1000
"""Of the episodes; those of the evaluation are others."""


def names(task: str) -> list[str]:
    """Returns a word for each subgoal, in the order of `ogbench_goals.met`."""
    goal = ogbench_goals.GOALS[task]
    cubes = [f"cube {number}" for number in range(len(goal.cubes))]
    buttons = [f"button {number}" for number in range(len(goal.buttons))]
    return cubes + buttons + ["drawer", "window"][: len(goal.slides)]


def changes(met: np.ndarray) -> list[tuple[int, int]]:
    """Returns (record, subgoal) of each change: met [R, subgoals]."""
    return [(int(row) + 1, int(goal)) for row, goal in np.argwhere(met[1:] != met[:-1])]


def episode(env: ogbench_play.Environment, policy: LoadedPolicy, seed: int) -> np.ndarray:
    """Returns the states of an episode, [T + 1, state_dim]."""
    seen, _ = env.reset(seed=seed)
    states, ended = [seen["state"]], False
    while not ended:
        reset = len(states) == 1
        asked = {"observation/state": seen["state"], "prompt": env.instruction, "reset": reset}
        seen, _, terminated, truncated, _ = env.step(policy.infer(asked)["actions"][0])
        states.append(seen["state"])
        ended = terminated or truncated
    return np.stack(states)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row")
    parser.add_argument("--workdir", help="of the run, where it is not the row's")
    parser.add_argument("--decode", default="", help="how the policy decides; default: as the row does")
    parser.add_argument("--episodes", type=int, default=8)
    given = parser.parse_args()
    config = ogbench.get_config(given.row)
    (task,) = config.env.tasks
    words = names(task)
    decode = given.decode or config.evaluate.decode
    policy = qt_jax.load_policy(given.workdir or config.workdir, decode=decode)
    env = ogbench_play.Environment(task, config.env)

    ends, found, decisions = [], 0, 0
    for number in range(given.episodes):
        met = ogbench_goals.met(task, episode(env, policy, FIRST_SEED + number))
        each = changes(met)
        line = ", ".join(f"{'+' if met[row, goal] else '-'}{words[goal]} {row}" for row, goal in each)
        print(f"{number}: {'solved' if met.all(axis=1).any() else 'not solved'} | {line}")
        ends.append(met[-1])
        found, decisions = found + len(each), decisions + len(met) - 1

    shares = ", ".join(f"{word} {share:.0%}" for word, share in zip(words, np.mean(ends, axis=0)))
    print(f"met at the end: {shares}")
    play = [ogbench_goals.met(task, piece.state) for piece in qt_jax.open_dataset(config).episodes()]
    of_play = sum(len(changes(met)) for met in play) / sum(len(met) - 1 for met in play)
    print(f"changes in 100 decisions: {100 * found / decisions:.1f}, of play {100 * of_play:.1f}")


if __name__ == "__main__":
    main()
