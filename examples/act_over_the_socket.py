"""Acts with a policy behind a server: the observations and replies are those of act.py.

    python -m qt_jax serve --artefact=runs/quickstart/q_transformer/policy --port=8000
    python examples/act_over_the_socket.py ws://127.0.0.1:8000 "open the faucet"

The robot needs numpy, msgpack and websockets (`pip install 'qt_jax[serve]'`), or openpi-client instead of
this client.
"""

import sys

import numpy as np

from qt_jax.serving.client import Client


def main(url: str, instruction: str, steps: int = 20) -> None:
    with Client(url) as policy:
        expected = policy.metadata["observation"]
        arrays = {key: form for key, form in expected.items() if "shape" in form}
        for step in range(steps):
            observation = {key: np.zeros(form["shape"], form["dtype"]) for key, form in arrays.items()}
            reply = policy.infer(observation | {"prompt": instruction, "reset": step == 0})
            for action in reply["actions"]:  # one, unless the policy decides a chunk of them
                print(np.round(action, 3))


if __name__ == "__main__":
    main(*sys.argv[1:3])
