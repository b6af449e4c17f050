"""OGBench's scenes and their single tasks: goals, and rewards as a function of the observation.

Numbers are those of OGBench 1.2.2, which the tests compare with its own environments. No simulator is needed.
"""

from __future__ import annotations

import dataclasses

import numpy as np

ARM = 19
"""Numbers of an observation about the arm, which come first."""
CUBE, BUTTON = 9, 4
"""Numbers about each cube (position, quaternion, yaw) and button (state as one-hot, place, speed)."""
CENTER, PER_M = np.array([0.425, 0.0, 0.0]), 10.0
"""A cube's position in an observation is (position - CENTER) * PER_M."""
DRAWER_PER_M, WINDOW_PER_M = 18.0, 15.0
REACHED_M = 0.04
"""How far cubes, drawer and window may be from their goals."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One of OGBench's environments.

    module, name, env_type: how OGBench makes it
    cubes, buttons: how many there are
    slides: whether there are a drawer and a window
    limit: steps of an evaluation episode
    stacking: range of the chance that a cube goes onto another one in play, drawn for each episode
    """

    module: str
    name: str
    env_type: str
    cubes: int
    buttons: int
    slides: bool
    limit: int
    stacking: tuple[float, float]

    @property
    def state_dim(self) -> int:
        """Length of an observation."""
        return ARM + CUBE * self.cubes + BUTTON * self.buttons + 4 * self.slides

    @property
    def subgoals(self) -> int:
        """The number of subgoals, and so the least reward's amount."""
        return self.cubes + self.buttons + 2 * self.slides

    @property
    def description(self) -> str:
        """What an observation is, in words."""
        things = ["arm joints and their speeds", "hand pose", "gripper"]
        there = {"cubes": self.cubes, "buttons": self.buttons, "drawer and window": self.slides}
        things += [name for name, is_there in there.items() if is_there]
        return f"OGBench's {self.state_dim} numbers: {', '.join(things)}"


SCENES = {
    "cube-single": Scene("cube_env", "CubeEnv", "single", 1, 0, False, 200, (0.0, 0.0)),
    "cube-double": Scene("cube_env", "CubeEnv", "double", 2, 0, False, 500, (0.0, 0.25)),
    "scene": Scene("scene_env", "SceneEnv", "scene", 1, 2, True, 750, (0.5, 0.5)),
    "puzzle-3x3": Scene("puzzle_env", "PuzzleEnv", "3x3", 0, 9, False, 500, (0.5, 0.5)),
}


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a task wants.

    instruction: this project's sentence
    cubes: the position of each, in metres
    buttons: the state of each
    slides: positions of drawer and window, in metres; (): there are none
    """

    instruction: str
    cubes: tuple[tuple[float, float, float], ...] = ()
    buttons: tuple[int, ...] = ()
    slides: tuple[float, ...] = ()


def _lights(instruction: str, rows: str) -> Goal:
    return Goal(instruction, buttons=tuple(int(light) for light in rows.replace(" ", "")))


_IN_DRAWER = (0.33, -0.356, 0.065986)

GOALS = {
    "cube-single-task1": Goal("move the cube to the right", ((0.425, -0.1, 0.02),)),
    "cube-single-task2": Goal("push the cube forward, away from the robot", ((0.5, 0.0, 0.02),)),
    "cube-single-task3": Goal("bring the cube back, close to the robot", ((0.35, 0.0, 0.02),)),
    "cube-single-task4": Goal("put the cube in the far left corner", ((0.5, 0.2, 0.02),)),
    "cube-single-task5": Goal("put the cube in the far right corner", ((0.5, -0.2, 0.02),)),
    "cube-double-task1": Goal(
        "place the blue cube to the left of the red cube", ((0.425, 0.0, 0.02), (0.425, 0.1, 0.02))
    ),
    "cube-double-task2": Goal("move both cubes to the left", ((0.35, 0.1, 0.02), (0.5, 0.1, 0.02))),
    "cube-double-task3": Goal(
        "move the red cube to the far right and the blue cube to the far left",
        ((0.425, -0.2, 0.02), (0.425, 0.2, 0.02)),
    ),
    "cube-double-task4": Goal("swap the two cubes", ((0.425, 0.1, 0.02), (0.425, -0.1, 0.02))),
    "cube-double-task5": Goal(
        "stack the blue cube on top of the red cube", ((0.425, 0.0, 0.02), (0.425, 0.0, 0.06))
    ),
    "scene-task1": Goal("open the drawer and the window", ((0.35, 0.05, 0.02),), (1, 1), (-0.16, 0.2)),
    "scene-task2": Goal(
        "close and lock the drawer and the window", ((0.35, -0.05, 0.02),), (0, 0), (0.0, 0.0)
    ),
    "scene-task3": Goal(
        "open the drawer, close the window, unlock both and move the cube to the left",
        ((0.4, 0.15, 0.02),),
        (1, 1),
        (-0.16, 0.0),
    ),
    "scene-task4": Goal(
        "put the cube in the drawer, close it and leave it unlocked", (_IN_DRAWER,), (1, 0), (0.0, 0.0)
    ),
    "scene-task5": Goal(
        "put the cube in the drawer, open the window and lock everything", (_IN_DRAWER,), (0, 0), (0.0, 0.2)
    ),
    "puzzle-3x3-task1": _lights("turn all lights blue but one diagonal", "110 101 011"),
    "puzzle-3x3-task2": _lights("turn all lights blue but a single corner", "011 111 111"),
    "puzzle-3x3-task3": _lights("turn the corners and the centre blue, the others red", "101 010 101"),
    "puzzle-3x3-task4": _lights("turn all lights blue", "111 111 111"),
    "puzzle-3x3-task5": _lights("turn the middle column red and both outer columns blue", "101 101 101"),
}
"""{"SCENE-taskN": goal of OGBench's task N}."""


def rewards(task: str, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes OGBench's reward of an action in each state, and where the task is solved (`play.Rewards`).

    Args:
        task: a key of `GOALS`.
        state: OGBench's observations, [R, state_dim].

    Returns:
        Minus the number of unmet subgoals, float32 [R]; whether none is unmet, bool [R].
    """
    each = met(task, state)
    count, subgoals = each.sum(axis=1), each.shape[1]
    return (count - subgoals).astype(np.float32), count == subgoals


def met(task: str, state: np.ndarray) -> np.ndarray:
    """Returns which subgoals are met, bool [R, subgoals]: of cubes, buttons, drawer and window.

    Args:
        task: a key of `GOALS`.
        state: OGBench's observations, [R, state_dim].
    """
    goal, state = GOALS[task], state.astype(np.float64)
    found, place = [], ARM
    for cube in goal.cubes:
        offset = state[:, place : place + 3] / PER_M + CENTER - cube
        found.append(np.linalg.norm(offset, axis=1) <= REACHED_M)
        place += CUBE
    for button in goal.buttons:
        found.append(state[:, place + button] == 1)
        place += BUTTON
    for slide, per_m in zip(goal.slides, (DRAWER_PER_M, WINDOW_PER_M)):
        found.append(np.abs(state[:, place] / per_m - slide) <= REACHED_M)
        place += 2
    return np.stack(found, axis=1)
