"""A simulator of your own in one file: a point on a table, which has to reach one of two corners.

    python -m qt_jax collect  --config=examples/my_suite.py
    python -m qt_jax train    --config=examples/my_suite.py
    python -m qt_jax evaluate --config=examples/my_suite.py
    python -m qt_jax improve  --config=examples/my_suite.py

`qt_jax.envs.suites` lists what a suite has. Simulators of MuJoCo need no `render_frame` of their own.
"""

import types

import ml_collections
import numpy as np

from qt_jax.envs import collectors, suite_env
from qt_jax.envs.suite_env import SuiteEnv
from qt_jax.evaluation import settings
from qt_jax.improvement import settings as rounds
from qt_jax.specs import ActionSpec, ObservationSpec
from qt_jax.training.config import default_config

GOALS = {"left": np.array([-0.8, 0.8]), "right": np.array([0.8, 0.8])}
INSTRUCTIONS = {
    "left": ("go to the left corner", "move left"),
    "right": ("go to the right corner", "move right"),
}
TASKS = tuple(GOALS)


def env_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.suite = "examples.my_suite:suite"  # this file, as Python finds it from where you start
    config.tasks = TASKS
    config.cameras = ()  # no images: the state says all
    config.image_size = 64  # of videos
    config.state = "position"
    config.action_repeat = 1  # simulator steps of a decision
    config.max_decisions = 30  # time limit
    config.bins = 32  # of each action dim
    return config


def suite_tasks(names: tuple[str, ...]) -> tuple[str, ...]:
    return suite_env.tasks_named(names, {"all": TASKS}, TASKS)


def action_spec(config: ml_collections.ConfigDict) -> ActionSpec:
    return ActionSpec(("x", "y"), (-1.0, -1.0), (1.0, 1.0), (config.bins,) * 2)


def observation_spec(config: ml_collections.ConfigDict) -> ObservationSpec:
    return ObservationSpec(tuple(config.cameras), (config.image_size,) * 2, 2, "position of the point")


def decision_dt(config: ml_collections.ConfigDict, task: str) -> float:
    return 0.1 * config.action_repeat


class Environment(SuiteEnv):
    def __init__(self, task: str, config: ml_collections.ConfigDict):
        self._goal = GOALS[task]
        specs = action_spec(config), observation_spec(config)
        super().__init__(INSTRUCTIONS[task][0], None, config, *specs, config.action_repeat)

    def _begin(self, seed: int | None) -> None:
        self._point = np.random.default_rng(seed).uniform((-0.3, -0.9), (0.3, -0.5))
        self.simulator_state = {"point": self._point, "offset": np.zeros(2)}

    def _simulate(self, action: np.ndarray) -> bool:
        self._point = np.clip(self._point + 0.1 * np.clip(action, -1, 1), -1, 1)
        self.simulator_state = {"point": self._point, "offset": np.zeros(2)}
        return bool(np.linalg.norm(self._point - self._goal) < 0.15)

    def _state(self) -> np.ndarray:
        return self._point

    def _camera(self) -> None:
        """Does nothing: a camera of MuJoCo is not needed, since `render_frame` draws."""

    def render_frame(self, size: int) -> np.ndarray:
        frame = np.full((size, size, 3), 255, np.uint8)
        for place, colour in ((self._goal, (60, 160, 60)), (self._point, (200, 40, 40))):
            row, column = (np.array([1 - place[1], 1 + place[0]]) / 2 * (size - 1)).astype(int)
            frame[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = colour
        return frame


class Expert:
    """Goes straight to the goal, as it perceives it."""

    def __init__(self, task: str):
        self._goal = GOALS[task]

    def __call__(self, simulator_state: dict) -> np.ndarray:
        way = self._goal + simulator_state["offset"] - simulator_state["point"]
        return np.float32(np.clip(way / 0.1, -1, 1))


def misperceived(simulator_state: dict, bias: np.ndarray) -> dict:
    """Returns what an expert sees when its perception is wrong by `bias` [3], in metres."""
    return simulator_state | {"offset": np.asarray(bias)[:2]}


suite = types.SimpleNamespace(
    get_config=env_config,
    suite_tasks=suite_tasks,
    TASKS=TASKS,
    INSTRUCTIONS=INSTRUCTIONS,
    SHARED_SCENES=(TASKS,),  # only the instruction tells them apart
    STATE_HAS_GOAL=(),  # kinds of state that would give the task away
    ONE_SCENE=True,  # one environment could serve all tasks
    action_spec=action_spec,
    observation_spec=observation_spec,
    decision_dt=decision_dt,
    Environment=Environment,
    PLAY=None,  # its data have tasks
    Expert=Expert,
    misperceived=misperceived,
    STYLES={},  # other ways to do a task, in which people differ
)


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.env = env_config()
    config.collect = collectors.get_config()
    config.evaluate = settings.get_config()
    config.improve = rounds.get_config()
    config.collect.demonstrations, config.collect.autonomous = 20, 40
    config.data.path = "data/my_suite"
    config.workdir = "runs/my_suite"
    return config
