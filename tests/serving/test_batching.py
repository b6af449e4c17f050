"""What a batch hands to the policy's sessions."""

import threading

import numpy as np
import pytest

from qt_jax.policy.requests import Refused, Request
from qt_jax.serving.batching import Batcher


class Asked:
    """In the place of `Policies`: writes down what it is asked."""

    capacity = 4

    def __init__(self):
        self.requests = []

    def act_each(self, requests):
        self.requests += requests
        return [None] * len(requests)


def request(**more) -> Request:
    return Request("a", {}, np.zeros(0, np.float32), "open", **more)


@pytest.mark.parametrize("given, taken", [(None, 7), (3, 3)])
@pytest.mark.parametrize("refused", ["superseded", "late"])
def test_an_episode_that_did_not_begin_begins_with_its_seed_at_the_next_request(refused, given, taken):
    asked, free = Asked(), threading.Event()
    batcher = Batcher(asked, budget_s=0.0)
    if refused == "superseded":
        batcher.call(free.wait)
    first = batcher.submit(request(reset=True, seed=7), -1.0 if refused == "late" else 60.0)
    if refused == "late":
        assert first.exception(10).code == "late"
    second = batcher.submit(request(seed=given))
    free.set()
    second.result(10)
    with pytest.raises(Refused) as caught:
        first.result(10)
    batcher.stop()
    assert caught.value.code == refused
    assert [(one.reset, one.seed) for one in asked.requests] == [(True, taken)]
