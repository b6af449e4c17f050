"""OGBench's play and its single-task benchmark: `ogbench.py:SET,METHOD,TASK,SEED`.

SET is one of `SETS`; `ogbench.py:scene-play` alone is what `collect` needs. METHOD is one of `METHODS`. TASK
is `task1` to `task5` for a network of that task, as published, or `all` for ONE network of the five, each
told by its instruction. Reward, end, time limit, discount and 50 evaluation episodes a task are the published
ones.

Decisions are held for five control periods, 0.25 s (docs/method.md, section 5).

Hardware: 2 CPU cores. Time: 10 to 25 minutes of a core to collect a set and its tenth of validation; 25
minutes of a core to train a network of one task, five times as long for one of all. Memory: 0.8 GiB while it
trains. Result: experiments/results/ogbench.md.
"""

import ml_collections

from qt_jax.envs import ogbench_play, play_collection
from qt_jax.envs.ogbench_goals import SCENES
from qt_jax.errors import UserError
from qt_jax.evaluation import settings
from qt_jax.training.config import default_config

SETS = {f"{scene}-play": scene for scene in SCENES}
TASKS = ("all", "task1", "task2", "task3", "task4", "task5")
DISCOUNT = 0.99
HELD = 5
"""Control periods of a decision."""

BALANCED = {"data.balance.successes": 0.5}
"""Half of each batch is of episodes that solve their task, of which play has few."""

FAST = {"agent.target_rate": 0.03}
"""A value moves on by one backup when the target network has caught up, and here it needs dozens."""

SOFT = {"agent.temperature": 1.0, "agent.max_weight": 20.0}
"""Of advantages: one decision's reward is -1 for each subgoal."""

METHODS = {
    "q_transformer": (
        "q_transformer",
        BALANCED
        | FAST
        | {
            "agent.value_loss": "logistic",
            "agent.backup": "skip_first_dim",
            "agent.n_step": 5,
            "agent.alpha": 0.1,
            "agent.behaviour_weight": 0.1,
            "evaluate.decode": "beam:4",
        },
    ),
    "bc_all": ("bc", {}),
    "bc_successes": ("bc", {"data.episodes": "successes"}),
    "iql": ("iql", BALANCED | FAST | SOFT | {"agent.value_loss": "squared", "agent.expectile": 0.9}),
    "awac": (
        "awac",
        BALANCED
        | FAST
        | SOFT
        | {
            "agent.value_loss": "logistic",
            "agent.backup": "skip_first_dim",
            "agent.n_step": 5,
            "agent.policy_weight": 0.1,
        },
    ),
}
"""{name: (agent, settings)}.

`bc_successes` imitates what ended in a solved state, from the solved state before it or the start on.

Chosen on task 1 of cube-single, one network of that task, seed 0, 300,000 transitions. Q of the data's
actions by `python -m benchmarks.ogbench_values`: where the task is solved (right is 0), of the last action
before (-1), and with the cube 25 to 40 cm from its goal. Success by beam:4 in 50 episodes (30 after 2,500
steps):

    behaviour_weight  segment_length  steps   solved  last  25-40 cm  success
    1                 8               6,000   -13.2   -9.7     -14.3      44%
    1                 16              6,000   -10.4   -3.5     -14.7      62%
    0                 16              2,500    -4.5   -2.2     -15.6       0%
    0                 16              6,000    -2.5   -2.5     -16.3       0%
    0.1               16              2,500    -6.0   -3.0     -15.1      43%
    0.1               16              6,000    -2.2   -2.1     -15.7      64%

The last one has 64% greedily too, and 38% by rank:16; the second one 52% and 28%. `bc_successes` has 6%,
drawn 8%, with segments of 8. One network for all five tasks, as in the first line but with 12,000 steps, had
7, 3, 0, 0 and 10% of 30 episodes: a task had 2,400 steps there.

`iql` has 60% on task 1 with the weight of its policy's loss at 1 (54% by beam:4, 36% by rank:16). With 0.1
it had 22% on task 2, where it has 84% with 1. Its published temperature is 0.2 in decisions of five periods:
with it the mean weight of an action is 16 or 0.1, and with 0.3 it goes from 0.04 to 2.8 and to 0.02 within
3,000 steps, as V and the critics follow each other; neither was trained to its end. `awac` has its first
setting.
"""


def get_config(arguments: str = "scene-play") -> ml_collections.ConfigDict:
    given = arguments.split(",")
    name, method, task, seed = (*given, *("q_transformer", "all", "0")[len(given) - 1 :])
    for value, known in ((name, SETS), (method, METHODS), (task, TASKS)):
        if value not in known:
            raise UserError(f"ogbench.py:{arguments} has {value!r}; expected one of {', '.join(known)}.")
    (agent, own), scene = METHODS[method], SETS[name]

    config = default_config(agent)
    config.workdir = f"runs/ogbench/{name}/{method}/{task}/{seed}"
    config.seed = int(seed)
    config.env = ogbench_play.get_config(scene)
    config.env.action_repeat = HELD
    config.env.max_decisions = SCENES[scene].limit // HELD
    config.env.tasks = (scene if task == "all" else f"{scene}-{task}",)
    config.collect = play_collection.get_config()
    config.collect.transitions = 300_000  # OGBench's files have a million
    config.data.path = f"data/ogbench/{name}"
    config.discount, config.dt_ref = DISCOUNT, ogbench_play.SIMULATOR_STEP_S
    config.value_range = (-SCENES[scene].subgoals / (1.0 - DISCOUNT**HELD), 0.0)  # unmet for ever, and solved
    config.data.batch_size = 32
    config.data.segment_length = 16
    config.optimizer.learning_rate = 1e-3
    config.model.window = 1
    config.model.layers = 2
    config.train.steps = 6_000 * len(ogbench_play.suite_tasks(config.env.tasks))
    config.train.log_every = 500
    config.train.validate_every = 3000
    config.train.checkpoint_every = 3000
    config.evaluate = settings.get_config()
    config.evaluate.episodes = 50
    config.evaluate.videos = 0
    config.update_from_flattened_dict(own)
    return config
