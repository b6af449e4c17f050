"""A server whose policy decides three actions at once, of which robots execute two."""

import numpy as np
import pytest

from qt_jax.serving import wire
from qt_jax.serving.client import Client
from tests.serving import fake
from tests.serving.test_circle import OPENPI, Robot

SPEC = fake.with_chunks(chunk=3, execute=2)
FIRST, SECOND = [-0.75, -0.75], [-0.25, -0.25]
"""Centres of the bins 0 and 1 of four over [-1, 1], in two dims."""


def test_a_reply_has_the_actions_to_execute_and_the_bins_of_the_whole_decision():
    with fake.served(spec=SPEC) as port, Client(f"ws://127.0.0.1:{port}") as client:
        reply = client.infer(fake.observation(return_scores=True))
        assert reply["actions"].dtype == np.float32
        np.testing.assert_array_equal(reply["actions"], [FIRST, SECOND])
        np.testing.assert_array_equal(reply["tokens"], [0, 0, 1, 1, 2, 2])
        assert reply["scores"].shape == (6, 4) and reply["scores_of_dims"].shape == (6,)
        assert client.metadata["decision"]["names"] == ["x", "y", "x+1", "y+1", "x+2", "y+2"]
        assert client.metadata["action"]["names"] == ["x", "y"] and client.metadata["execute"] == 2


@pytest.mark.skipif(not OPENPI.exists(), reason="needs `make .openpi/.installed`")
def test_openpis_broker_plays_what_is_to_be_executed_and_then_asks_again():
    with fake.served(spec=SPEC) as port:
        robot = Robot(f"ws://127.0.0.1:{port}", "2")
        robot.ask(b"")
        replies = [robot.ask(wire.pack(fake.observation(number))) for number in range(4)]
        robot.end()
    np.testing.assert_array_equal([reply["actions"] for reply in replies], [FIRST, SECOND] * 2)
    assert [reply["step"] for reply in replies] == [0, 0, 1, 1]
