"""OGBench's play and its single-task benchmark: `ogbench.py:SET,METHOD,TASK,SEED`.

SET is one of `SETS`; `ogbench.py:scene-play` alone is what `collect` needs. METHOD is one of `METHODS`. TASK
is `task1` to `task5` for a network of that task, as published, or `all` for ONE network of the five, each
told by its instruction. Reward, end, time limit, discount and 50 evaluation episodes a task are the published
ones.

Decisions are held for five control periods, 0.25 s (docs/method.md, section 5).

Hardware: 2 CPU cores. Time: 0.5 to 1.4 core-hours to collect a set of 1M transitions and its tenth of
validation; half a core-hour to train and five minutes to evaluate a row. Memory: 2 GiB. Result:
experiments/results/ogbench.md.
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
            "agent.behaviour_weight": 1.0,
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
        | {"agent.value_loss": "logistic", "agent.backup": "skip_first_dim", "agent.n_step": 5},
    ),
}
"""{name: (agent, settings)}.

`bc_successes` imitates what ended in a solved state, from the solved state before it or the start on.
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
    config.data.path = f"data/ogbench/{name}"
    config.discount, config.dt_ref = DISCOUNT, ogbench_play.SIMULATOR_STEP_S
    config.value_range = (-SCENES[scene].subgoals / (1.0 - DISCOUNT**HELD), 0.0)  # unmet for ever, and solved
    config.data.batch_size = 32
    config.data.segment_length = 8
    config.optimizer.learning_rate = 1e-3
    config.model.window = 1
    config.model.layers = 2
    config.train.steps = 12_000
    config.train.log_every = 500
    config.train.validate_every = 3000
    config.train.checkpoint_every = 3000
    config.evaluate = settings.get_config()
    config.evaluate.episodes = 50
    config.evaluate.videos = 0
    config.update_from_flattened_dict(own)
    return config
