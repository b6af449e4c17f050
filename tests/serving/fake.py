"""A server of a policy without a network, in a thread, for tests of the socket alone."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from qt_jax.policy.observations import Keys
from qt_jax.policy.runtime import Runtime
from qt_jax.policy.sessions import Sessions
from qt_jax.serving.access import Access
from qt_jax.serving.policies import Policies, Served
from qt_jax.serving.server import Limits, Server
from qt_jax.serving.unix import UnixSocket
from qt_jax.serving.watching import Watched
from qt_jax.specs import ActionSpec, Interface, ObservationSpec, PolicySpec
from qt_jax.statistics import Statistics

SPEC = PolicySpec(
    interface=Interface(
        ActionSpec(("x", "y"), (-1.0, -1.0), (1.0, 1.0), (4, 4)),
        ObservationSpec(("front",), (64, 64), 3, "joints"),
        instruction_dim=4,
    ),
    network_dims=(0, 1),
    window=2,
    text_encoder="none",
    score_name="Q",
    dt=0.1,
)


def with_chunks(chunk: int, execute: int) -> PolicySpec:
    own = dataclasses.replace(SPEC.interface, chunk=chunk, execute=execute)
    return dataclasses.replace(SPEC, interface=own, network_dims=tuple(range(own.decision.dims)))


class Policy(Runtime):
    """Decides one bin in all dims, in a chunk k bins further in the action k steps later."""

    def __init__(self, capacity: int = 4, spec: PolicySpec = SPEC, first: int = 0):
        self._first = first
        size = spec.interface.observation.state_dim
        zeros, ones = (0.0,) * size, (1.0,) * size
        super().__init__(spec, Statistics(zeros, ones, zeros, ones, zeros, ones), capacity)

    def _decide(self, episode, *inputs):
        tokens = np.repeat(self._first + np.arange(self.spec.interface.chunk, dtype=np.int32), 2)
        return np.tile(tokens, (len(episode), 1)), np.zeros((len(episode), len(tokens), 4), np.float32)

    def _judge(self, episode, *inputs):
        """Of the bin b of the last dim Q is b."""
        tokens = inputs[-1]
        return tokens.astype(np.float32), np.ones(tokens.shape, np.float32)

    def correct(self, episode, tokens):
        pass

    def forget_all(self):
        pass


def observation(number: float = 0.0, prompt: str = "open the faucet", **more) -> dict:
    image = np.full((64, 64, 3), int(number), np.uint8)
    seen = {"observation/front": image, "observation/state": np.full(3, number, np.float32)}
    return seen | {"prompt": prompt} | more


def act(robot, *prompts: str | None, **more) -> None:
    """Takes a step for each prompt, the n-th in state n; None: the instruction is an embedding."""
    for number, prompt in enumerate(prompts):
        seen = observation(number, prompt or "", **more)
        if prompt is None:
            seen["instruction_embedding"] = np.ones(4, np.float32)
        robot.infer(seen)


def label(robot, prompt: str = "open", **more) -> str:
    """Labels the episode as a success, in state 9; returns its name."""
    return robot.infer(observation(9, prompt, label={"success": True} | more))["recorded"]


@contextlib.contextmanager
def served(
    host: str = "127.0.0.1",
    recorder=None,
    access: Access | None = None,
    tls=None,
    capacity: int = 4,
    spec: PolicySpec = SPEC,
    policy: Runtime | None = None,
    policies: Policies | None = None,
    shadow: Served | None = None,
    embed: Callable[[str], np.ndarray] = lambda sentence: np.ones(4, np.float32),
    about: dict | None = None,
    keys: Keys | None = None,
    unix: UnixSocket | None = None,
    watched: Sequence[Watched] = (),
    **limits,
) -> Iterator[int]:
    """Yields the port of a server that ends with the block; 0 for one on a Unix socket."""
    sessions = Sessions(policy or Policy(capacity, spec), embed, reserved=1)
    if policies is None:
        policies = Policies([Served(sessions, about or {"artefact": "fake"})], keys=keys)
    server = Server(policies, access=access, limits=Limits(**limits), recorder=recorder, shadow=shadow)
    started, ends, found = threading.Event(), threading.Event(), {}

    async def serve() -> None:
        with unix or contextlib.nullcontext():
            own = None if unix is None else unix.bind()
            async with server.listening(host, 0, tls, own) as listening:
                found["port"] = listening.sockets[0].getsockname()[1] if unix is None else 0
                started.set()
                tasks = [asyncio.create_task(one.watch(server.reloaded)) for one in watched]
                await asyncio.to_thread(ends.wait)
                for task in tasks:
                    task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield found["port"]
    finally:
        ends.set()
        thread.join(30)
        assert not thread.is_alive()
