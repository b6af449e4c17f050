"""Runs a robot of LeRobot by a policy behind a server; here an SO-101 arm with one camera.

    python -m qt_jax serve --artefact=policy --port=8000   # exported with --limits=limits.json
    python examples/lerobot_robot.py ws://127.0.0.1:8000 "pick up the cube" /dev/ttyACM0

The robot's machine needs LeRobot, and numpy, msgpack and websockets for our client. The dims of the policy's
action, and the entries of its state, are the robot's own joints, as in a dataset that LeRobot recorded.
"""

import signal
import sys
import time

import numpy as np

from qt_jax.serving.client import Client
from qt_jax.serving.control import ControlLoop


class LeRobot:
    """One of LeRobot's `Robot` objects for the control loop; joints such as "shoulder_pan.pos"."""

    def __init__(self, robot, joints: list[str], cameras: list[str]):
        self._robot, self._joints, self._cameras = robot, joints, cameras

    def observe(self) -> dict:
        began = time.monotonic()
        seen = self._robot.get_observation()
        # Cameras of another size than the policy's are refused: resize here as `convert` did.
        images = {f"observation/{camera}": seen[camera] for camera in self._cameras}
        state = np.asarray([seen[joint] for joint in self._joints], np.float32)
        return images | {"observation/state": state, "age_ms": 1000 * (time.monotonic() - began)}

    def move(self, action: np.ndarray) -> None:
        self._robot.send_action(dict(zip(self._joints, action.tolist())))


def run(url: str, instruction: str, robot, steps: int | None = None) -> None:
    with Client(url, timeout_s=5.0) as policy:
        forms = policy.metadata["observation"].items()
        cameras = [key.removeprefix("observation/") for key, form in forms if form["dtype"] == "uint8"]
        adapter = LeRobot(robot, policy.metadata["action"]["names"], cameras)
        print(ControlLoop(policy, adapter).run(instruction, steps))


def main(url: str, instruction: str, port: str) -> None:
    from lerobot.cameras.opencv import OpenCVCameraConfig
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    front = OpenCVCameraConfig(index_or_path=0, fps=30, width=640, height=480)
    robot = SO101Follower(SO101FollowerConfig(port=port, id="my_arm", cameras={"front": front}))
    robot.connect()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the loop sends the stop action
    try:
        run(url, instruction, robot)
    finally:
        robot.disconnect()


if __name__ == "__main__":
    main(*sys.argv[1:4])
