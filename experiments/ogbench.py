"""OGBench's play and its single-task benchmark: `ogbench.py:SET,METHOD,TASK,SEED`.

SET is one of `SETS`; `ogbench.py:scene-play` alone is what `collect` needs. METHOD is one of `METHODS`. TASK
is `task1` to `task5` for a network of that task, as published, or `all` for ONE network of the five, each
told by its instruction. Reward, end, time limit, discount and 50 evaluation episodes a task are the published
ones.

Hardware: 2 CPU cores. Time: 0.5 to 1.4 core-hours to collect a set of 1M transitions and its tenth of
validation; training is not measured yet. Memory: not measured. Result: none yet.
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

WIDE = {"agent.value_loss": "logistic"}
"""Relative to the value range, which is hundreds wide here: a squared error would drown the policy's loss."""

FAST = {"agent.target_rate": 0.03}
"""A value moves on by one backup when the target network has caught up, and here it needs some fifty."""

KEEPING = WIDE | FAST | {"agent.backup": "skip_first_dim", "agent.alpha": 0.03, "data.segment_length": 16}
"""So that over many backups the conservative term takes less of a value than the discount does
(docs/method.md, section 2): play is noisy, episodes are long, and no bin is taken often."""

METHODS = {
    "q_transformer": ("q_transformer", KEEPING | {"model.chunk": 5}),
    "q_transformer_steps": ("q_transformer", KEEPING | {"agent.n_step": 5}),
    "bc_all": ("bc", {}),
    "bc_successes": ("bc", {"data.episodes": "successes"}),
    "iql": (
        "iql",
        FAST
        | {
            "agent.value_loss": "squared",
            "agent.expectile": 0.9,
            "agent.temperature": 0.1,
            "agent.max_weight": 1.0,
        },
    ),
    "awac": ("awac", WIDE | FAST | {"agent.backup": "skip_first_dim", "agent.temperature": 0.1}),
}
"""{name: (agent, settings)}, none of them tuned here for success.

`q_transformer` decides and executes chunks of 5 actions. `bc_successes` imitates what ended in a solved
state, from the solved state before it or the episode's start on. IQL has the expectile and the temperature
that are the defaults of FQL's code, where they are tuned for each scene. Its critics learn where the goal is
sooner with the squared error, and no action weighs more than 1: the policy has their trunk, and with FQL's
100 its gradient is that of a few actions.

Learning rate, target rate and alpha were chosen by what the values say (`python -m
benchmarks.ogbench_values`, one seed, 200,000 to 300,000 transitions): Q of the data's actions in
cube-single's task 1, by the cube's distance from its goal in cm, of a network of that task in the first two
rows and of one for all five in the others:

    method               learning rate  target rate  alpha   steps   0-4  4-8  8-15  15-25  25-40
    q_transformer_steps  3e-4           .005         1       2,500   -35  -75
    q_transformer_steps  3e-4           .005         .03     2,500   -12  -53  flat beyond
    q_transformer_steps  1e-4           .03          .03     3,000   -28  -34   -40    -45    -50
    iql                  3e-4           .005                10,000    -4   -6    -8    -10    -12
    iql                  1e-4, 3e-5     .03         8,000 + 11,000    -7  -23   -38    -50    -58

The last one goes on from the first 8,000 steps (`config.train.init_from`, `init_keeps`) at the second rate.
Its values are about right, and its policy succeeds in none of 100 episodes all the same.
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
    config.optimizer.learning_rate = 1e-4  # noise adds up over many backups (docs/method.md, section 7)
    config.model.window = 1
    config.model.layers = 2
    config.train.steps = 50_000
    config.train.log_every = 500
    config.train.validate_every = 5000
    config.train.checkpoint_every = 5000
    config.evaluate = settings.get_config()
    config.evaluate.episodes = 50
    config.evaluate.videos = 0
    config.update_from_flattened_dict(own)
    return config
