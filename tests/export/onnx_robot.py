"""A robot's program, whatever runs its policy."""

import json

import numpy as np

import qt_jax
from qt_jax.policy import onnx_policy
from qt_jax.policy.requests import Request
from qt_jax.policy.sessions import Sessions


def episode(policy) -> list[list[int]]:
    """Tokens of five steps, under another instruction after three."""
    rng, spec, tokens = np.random.default_rng(0), policy.spec, []
    sessions = Sessions(policy, lambda text: np.full(spec.interface.instruction_dim, 0.01 * len(text)))
    for sentence in ["open", "open", "open", "close it", "close it"]:
        images = {
            camera: rng.integers(0, 256, (*spec.interface.observation.image_size, 3), np.uint8)
            for camera in spec.interface.observation.cameras
        }
        state = rng.normal(size=spec.interface.observation.state_dim).astype(np.float32)
        (decision,) = sessions.act([Request("a", images, state, sentence)])
        tokens.append(decision.tokens.tolist())
    return tokens


def rankings(policy) -> list[list[float]]:
    """Q and support of 18 candidates at three steps."""
    rng, spec, found = np.random.default_rng(1), policy.spec, []
    own = spec.interface
    for step in range(3):
        images = {
            camera: rng.integers(0, 256, (1, *own.observation.image_size, 3), np.uint8)
            for camera in own.observation.cameras
        }
        state = rng.normal(size=(1, own.observation.state_dim)).astype(np.float32)
        seen = np.zeros(1, int), images, state, np.zeros((1, own.instruction_dim), np.float32)
        given = rng.uniform(own.action.low, own.action.high, (18, own.chunk, own.action.dims))
        found += policy.rank(*seen, np.full(1, step == 0), given)
    return [one.tolist() for one in found]


def front_door(folder: str) -> None:
    """`import qt_jax` alone gives an action."""
    policy = qt_jax.load_policy(f"{folder}/onnx", threads=1)
    embedding = {"instruction_embedding": np.zeros(policy.spec.interface.instruction_dim, np.float32)}
    seen = {
        key: np.zeros(of["shape"], of["dtype"]) for key, of in policy.observation.items() if "shape" in of
    }
    assert policy.infer(seen | embedding)["actions"].size == policy.spec.interface.executed.dims


def main(folder: str) -> None:
    front_door(folder)
    print(json.dumps(episode(onnx_policy.load(folder))))


def rank(folder: str) -> None:
    print(json.dumps(rankings(onnx_policy.load(folder))))
