"""Memory returns to the pool when nothing refers to it any more, and not before."""

import jax
import numpy as np

from qt_jax.data.buffers import Buffers


def test_memory_is_used_again_once_nothing_refers_to_it():
    buffers, shape = Buffers(), (64, 64, 3)
    first = buffers.take(shape)
    address, view = first.ctypes.data, first[1:]
    del first
    assert buffers.take(shape).ctypes.data != address  # the view is alive
    del view
    assert address in (buffers.take(shape).ctypes.data, buffers.take(shape).ctypes.data)


def test_an_array_of_jax_that_shares_the_memory_keeps_it():
    buffers, shape = Buffers(), (64, 64, 64)
    host = buffers.take(shape)
    host[:] = 7
    device = jax.device_put(host)
    del host
    for _ in range(3):
        buffers.take(shape)[:] = 9
    np.testing.assert_array_equal(device, 7)
