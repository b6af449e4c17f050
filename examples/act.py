"""Acts with a policy in this process: a run, an artefact or an artefact's folder `onnx`.

python examples/act.py runs/quickstart/q_transformer "open the faucet"
"""

import sys
import time

import numpy as np

import qt_jax


class Robot:
    """Put your cameras, joints and motors here; this one sees black and moves nothing."""

    def __init__(self, expected: dict):
        self._arrays = {key: form for key, form in expected.items() if "shape" in form}

    def observe(self) -> dict:
        """Returns {"observation/front": uint8 [H, W, 3], "observation/state": float [state_dim]}."""
        return {key: np.zeros(form["shape"], form["dtype"]) for key, form in self._arrays.items()}

    def move(self, action: np.ndarray) -> None:
        print(np.round(action, 3))


def main(path: str, instruction: str, steps: int = 20) -> None:
    policy = qt_jax.load_policy(path)  # compiles: afterwards each step takes milliseconds
    robot = Robot(policy.observation)
    for step in range(steps):
        began = time.monotonic()
        reply = policy.infer(robot.observe() | {"prompt": instruction, "reset": step == 0})
        for action in reply["actions"]:  # one, unless the policy decides a chunk of them
            robot.move(action)
            time.sleep(max(0.0, policy.spec.dt - (time.monotonic() - began)))
            began = time.monotonic()


if __name__ == "__main__":
    main(*sys.argv[1:3])
