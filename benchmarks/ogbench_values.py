"""`python -m benchmarks.ogbench_values ROW [--workdir RUN]`: whether a critic knows where the goal is.

ROW is a run of experiments/ogbench.py on one task of cube-single, trained with its values, such as
`cube-single-play,iql,task1,0`. Prints the mean Q of the actions in the data, and of random ones in the same
states: where the task is solved (0 is right), of the last action before that (-1), and of the others by the
cube's distance from its goal.
"""

from __future__ import annotations

import argparse

import numpy as np

import qt_jax
from experiments import ogbench
from qt_jax.envs.ogbench_goals import ARM, CENTER, GOALS, PER_M, REACHED_M

EDGES_M = (REACHED_M, 0.08, 0.15, 0.25, 0.4)
STATES, CANDIDATES = 60, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row")
    parser.add_argument("--workdir", help="of the run, where it is not the row's")
    given = parser.parse_args()
    config = ogbench.get_config(given.row)
    policy = qt_jax.load_policy(given.workdir or config.workdir, candidates=CANDIDATES)
    (goal,) = GOALS[config.env.tasks[0]].cubes
    instruction = GOALS[config.env.tasks[0]].instruction

    episodes = list(qt_jax.open_dataset(config).episodes())
    states = np.concatenate([episode.state[:-1] for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    distance = np.linalg.norm(states[:, ARM : ARM + 3] / PER_M + CENTER - goal, axis=1)

    left = np.concatenate([np.arange(episode.length, 0, -1) for episode in episodes])
    lengths = [episode.length for episode in episodes]
    success = np.repeat([episode.success for episode in episodes], lengths)
    solved = np.repeat([episode.terminal and not episode.success for episode in episodes], lengths)
    groups = {"solved": solved, "last action": success & (left == 1)}
    for low, high in zip(EDGES_M, EDGES_M[1:]):
        groups[f"{low:g} to {high:g} m"] = (low <= distance) & (distance < high)

    rng = np.random.default_rng(0)
    print("| cube to goal | Q of the action taken (sd) | of random ones |\n|---|---|---|")
    for name, there in groups.items():
        q = []
        for row in rng.choice(np.flatnonzero(there), STATES):
            random = rng.uniform(-1, 1, (CANDIDATES - 1, actions.shape[1]))
            candidates = np.concatenate([actions[row : row + 1], random])[:, None].astype(np.float32)
            seen = {"observation/state": states[row], "prompt": instruction, "reset": True}
            q.append(policy.rank(seen, candidates)["q"])
        taken, others = np.asarray(q)[:, 0], np.asarray(q)[:, 1:]
        print(f"| {name} | {taken.mean():.1f} ({taken.std():.1f}) | {others.mean():.1f} |")


if __name__ == "__main__":
    main()
