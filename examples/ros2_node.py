"""A ROS 2 node that runs a robot by a policy behind a server.

    python -m qt_jax serve --artefact=policy --port=8000   # exported with --limits=limits.json
    python3 examples/ros2_node.py ws://127.0.0.1:8000 "open the drawer"

It listens to a camera and to the joints, and publishes what the policy wants to a position controller of
ros2_control. The robot's machine needs numpy, msgpack and websockets for our client.
"""

import signal
import sys
import threading
import time

import numpy as np

from qt_jax.serving.client import Client
from qt_jax.serving.control import ControlLoop

CAMERAS = {"front": "/camera/image_raw"}  # the policy's camera: sensor_msgs/Image
JOINT_STATES = "/joint_states"  # sensor_msgs/JointState
COMMANDS = "/forward_position_controller/commands"  # std_msgs/Float64MultiArray


class Topics:
    """The newest message of each topic, for the control loop; it needs no ROS.

    joints: names of the state's joints, in the policy's order. publish: sends a command, a list of D floats.
    now: nanoseconds of the clock by which messages are stamped.
    """

    def __init__(self, joints, cameras, publish, now):
        self._joints, self._cameras, self._publish, self._now = joints, cameras, publish, now
        self._newest, self._lock = {}, threading.Lock()

    def receive(self, name: str, message) -> None:
        """Takes a message of a camera, or of "joints"; called in another thread than the loop's."""
        with self._lock:
            self._newest[name] = message

    def ready(self) -> bool:
        return {"joints", *self._cameras} <= set(self._newest)

    def observe(self) -> dict:
        with self._lock:
            newest = dict(self._newest)
        stamps = [message.header.stamp for message in newest.values()]
        oldest = min(stamp.sec * 10**9 + stamp.nanosec for stamp in stamps)
        joints = newest["joints"]
        state = [joints.position[joints.name.index(joint)] for joint in self._joints]
        seen = {f"observation/{camera}": pixels(newest[camera]) for camera in self._cameras}
        age_ms = max(0.0, (self._now() - oldest) / 1e6)
        return seen | {"observation/state": np.asarray(state, np.float32), "age_ms": age_ms}

    def move(self, action: np.ndarray) -> None:
        self._publish(action.tolist())


def pixels(image) -> np.ndarray:
    """Returns the RGB pixels, uint8 [H, W, 3], of a sensor_msgs/Image; resize here as `convert` did."""
    if image.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"The image is {image.encoding!r}, expected rgb8 or bgr8.")
    rows = np.frombuffer(bytes(image.data), np.uint8).reshape(image.height, image.step)
    rgb = rows[:, : 3 * image.width].reshape(image.height, image.width, 3)
    return np.ascontiguousarray(rgb if image.encoding == "rgb8" else rgb[..., ::-1])


def main(url: str, instruction: str) -> None:
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Float64MultiArray

    # Ctrl-C and SIGTERM end the loop, which sends the stop action while ROS still works.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    node = rclpy.create_node("qt_jax_policy")
    publisher = node.create_publisher(Float64MultiArray, COMMANDS, 10)
    with Client(url, timeout_s=5.0) as policy:
        topics = Topics(
            policy.metadata["action"]["names"],
            list(CAMERAS),
            lambda command: publisher.publish(Float64MultiArray(data=command)),
            lambda: node.get_clock().now().nanoseconds,
        )
        kinds = {camera: (Image, topic) for camera, topic in CAMERAS.items()}
        for name, (kind, topic) in {**kinds, "joints": (JointState, JOINT_STATES)}.items():
            node.create_subscription(
                kind, topic, lambda message, name=name: topics.receive(name, message), qos_profile_sensor_data
            )
        threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
        while not topics.ready():
            node.get_logger().info("waiting for the first messages")
            time.sleep(1.0)
        loop = ControlLoop(policy, topics)
        try:
            loop.run(instruction)
        except KeyboardInterrupt:
            node.get_logger().info("stopped")
        finally:
            node.get_logger().info(str(loop.report()))


if __name__ == "__main__":
    main(*sys.argv[1:3])
