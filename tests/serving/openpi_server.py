"""A policy server in a venv of its own, of openpi-client's own classes: it knows nothing of qt_jax.

It goes straight to the corner that the sentence names (examples/my_suite.py), in chunks of four actions, of
which the last two are nonsense. With the argument "proposals" it proposes other random actions of four dims
whenever it is asked. Like openpi's server it sends metadata of the policy's own, and text where the policy
fails. Prints its port.
"""

import itertools
import sys

import numpy as np
from openpi_client import base_policy, msgpack_numpy
from websockets.sync.server import serve


class Policy(base_policy.BasePolicy):
    def infer(self, obs: dict) -> dict:
        goal = np.array([-0.8 if "left" in obs["task"] else 0.8, 0.8])
        way = goal - obs["observation.point"]
        first = np.clip(way / 0.1, -1, 1)
        second = np.clip((way - 0.1 * first) / 0.1, -1, 1)
        return {"actions": np.stack([first, second, -first, -first]), "server_timing": {"infer_ms": 1.0}}


class Proposals(base_policy.BasePolicy):
    numbers = itertools.count()

    def infer(self, obs: dict) -> dict:
        return {"actions": np.random.default_rng(next(self.numbers)).uniform(-1, 1, (6, 4))}


def main() -> None:
    kind = Proposals if "proposals" in sys.argv else Policy

    def answer(connection):
        policy, packer = kind(), msgpack_numpy.Packer()
        connection.send(packer.pack({"reset_pose": [0.0, 0.0], "name": "corner"}))
        for message in connection:
            observation = msgpack_numpy.unpackb(message)
            try:
                connection.send(packer.pack(policy.infer(observation)))
            except KeyError as error:
                connection.send(f"Traceback (most recent call last):\n  ...\nKeyError: {error}")

    with serve(answer, "127.0.0.1", 0, compression=None, max_size=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
