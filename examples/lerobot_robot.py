"""Runs a robot of LeRobot by a policy behind a server; here an SO-101 arm with one camera.

    python -m qt_jax serve --artefact=policy --port=8000   # exported with --limits=limits.json
    python examples/lerobot_robot.py ws://127.0.0.1:8000 "pick up the cube" /dev/ttyACM0

The robot's machine needs LeRobot ('lerobot[feetech]', tried with 0.4.4), and msgpack and websockets for our
client. The dims of the policy's action, and the entries of its state, are the robot's own joints, as in a
dataset that LeRobot recorded. A camera of another size than the policy's is resized.
"""

import signal
import sys
import time

import numpy as np
from PIL import Image

from qt_jax.serving.client import Client
from qt_jax.serving.control import ControlLoop


class LeRobot:
    """One of LeRobot's `Robot` objects for the control loop.

    joints: such as "shoulder_pan.pos". cameras: {name: (height, width)} of the policy.
    """

    def __init__(self, robot, joints: list[str], cameras: dict[str, tuple[int, int]]):
        self._robot, self._joints, self._cameras = robot, joints, cameras

    def observe(self) -> dict:
        began = time.monotonic()
        seen = self._robot.get_observation()
        images = {f"observation/{name}": resized(seen[name], size) for name, size in self._cameras.items()}
        state = np.asarray([seen[joint] for joint in self._joints], np.float32)
        return images | {"observation/state": state, "age_ms": 1000 * (time.monotonic() - began)}

    def move(self, action: np.ndarray) -> None:
        self._robot.send_action(dict(zip(self._joints, action.tolist())))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 [H, W, 3] as `convert` does."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def run(url: str, instruction: str, robot, steps: int | None = None) -> None:
    with Client(url, timeout_s=5.0) as policy:
        forms = policy.metadata["observation"].items()
        images = {key: form["shape"] for key, form in forms if form["dtype"] == "uint8"}
        cameras = {key.removeprefix("observation/"): tuple(shape[:2]) for key, shape in images.items()}
        loop = ControlLoop(policy, LeRobot(robot, policy.metadata["action"]["names"], cameras))
        try:
            loop.run(instruction, steps)
        except KeyboardInterrupt:
            print("stopped")
        finally:
            print(loop.report())


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
