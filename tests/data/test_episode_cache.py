"""Episodes kept in memory: bounded in bytes, each made once."""

import threading
import time
import types

import pytest

from qt_jax.data.episode_cache import EpisodeCache


def make(size, made=None):
    if made is not None:
        made.append(size)
    return types.SimpleNamespace(nbytes=size)


@pytest.mark.parametrize("weight, kept", [(10, 10), (49, 2), (51, 1), (1000, 1)])
def test_the_cache_is_bounded_in_bytes_whatever_an_episode_weighs(weight, kept):
    cache = EpisodeCache(100)
    for key in range(30):
        cache.get(key, lambda: make(weight))
        assert cache.bytes <= max(100, weight)
    assert cache.bytes == kept * weight and list(cache._entries) == list(range(30 - kept, 30))


def test_the_least_recently_used_is_dropped_and_made_again():
    cache, made = EpisodeCache(30), []

    def want(key):
        return cache.get(key, lambda: made.append(key) or make(10))

    for key in "abcabdabc":
        want(key)
    assert made == list("abcdc"), "d takes the place of c: a and b were wanted after it"


def test_one_thread_makes_it_and_the_others_wait():
    cache, made = EpisodeCache(0), []

    def slowly():
        time.sleep(0.05)
        return make(1, made)

    threads = [threading.Thread(target=cache.get, args=("key", slowly)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and cache.bytes == 1


def test_an_episode_that_could_not_be_made_weighs_nothing_and_is_tried_again():
    cache = EpisodeCache(10)
    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 / 0)
    assert cache.bytes == 0 and cache.get("key", lambda: make(5)).nbytes == 5 and cache.bytes == 5
