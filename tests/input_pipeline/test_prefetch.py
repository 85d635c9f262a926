"""The thread that copies batches to the devices: order, limits, errors, and its end."""

import itertools
import threading
import time
import traceback

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from input_pipeline.prefetch import prefetch


@pytest.fixture
def sharding(mesh):
    return NamedSharding(mesh, PartitionSpec("data"))


def batches(count):
    for i in range(count):
        yield {
            "image": np.full((16, 2, 2, 1), i, np.uint8),
            "labels": np.arange(16) + i,
            "weight": np.full(16, i / 3, np.float32),
        }


def threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


def wait_for(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for five seconds")


def test_batches_come_in_order_as_global_arrays(sharding):
    found = list(prefetch(batches(7), sharding))
    for ours, expected in zip(found, batches(7), strict=True):
        assert ours.keys() == expected.keys()
        for name, array in ours.items():
            assert array.sharding.is_equivalent_to(sharding, array.ndim)
            np.testing.assert_array_equal(array, expected[name])
    assert not threads()


def test_only_int64_changes_its_dtype(sharding):
    """JAX would keep 64 bits here, so the change is not its own."""
    jax.config.update("jax_enable_x64", True)
    try:
        (batch,) = prefetch(batches(1), sharding)
    finally:
        jax.config.update("jax_enable_x64", False)
    dtypes = {name: array.dtype for name, array in batch.items()}
    assert dtypes == {"image": np.uint8, "labels": np.int32, "weight": np.float32}


def test_keys_select(sharding):
    (batch,) = prefetch(batches(1), sharding, keys=("image", "labels"))
    assert set(batch) == {"image", "labels"}
    with pytest.raises(KeyError, match="imgae"):
        next(prefetch(batches(1), sharding, keys=("imgae",)))


@pytest.mark.parametrize("size", [1, 3])
def test_at_most_size_batches_are_ahead(sharding, size):
    taken = []

    def counted():
        for batch in batches(50):
            taken.append(1)
            yield batch

    stream = prefetch(counted(), sharding, size=size)
    for step in range(1, 5):
        next(stream)
        wait_for(lambda step=step: len(taken) == step + size)
        time.sleep(0.02)
        assert len(taken) == step + size
    stream.close()


def test_an_error_of_the_producer_is_raised_with_its_traceback(sharding):
    def failing():
        yield from batches(2)
        raise ValueError("the disk is gone")

    stream = prefetch(failing(), sharding)
    assert int(next(stream)["image"][0, 0, 0, 0]) == 0
    assert int(next(stream)["image"][0, 0, 0, 0]) == 1
    with pytest.raises(ValueError, match="the disk is gone") as caught:
        next(stream)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "failing" in [frame.name for frame in frames]
    assert not threads()


def test_an_iterable_that_cannot_start_is_an_error_too(sharding):
    class Broken:
        def __iter__(self):
            raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"):
        next(prefetch(Broken(), sharding))
    with pytest.raises(ValueError, match="at least 1"):
        prefetch(batches(1), sharding, size=0)


def test_leaving_the_loop_ends_the_thread(sharding):
    closed = []

    def endless():
        try:
            for i in itertools.count():
                yield {"image": np.full((8, 1), i, np.int32)}
        finally:
            closed.append(True)

    for batch in prefetch(endless(), sharding):
        assert threads()
        if int(batch["image"][0, 0]) == 3:
            break
    wait_for(lambda: not threads())
    wait_for(lambda: closed)

    stream = prefetch(endless(), sharding)
    next(stream)
    stream.close()
    assert not threads()


def test_a_stream_that_is_never_used_starts_no_thread(sharding):
    prefetch(batches(3), sharding)
    assert not threads()


def test_its_transfers_are_explicit(sharding):
    """A guard forbids implicit ones, in this thread and in all threads."""
    double = jax.jit(lambda x: x * x)
    with jax.transfer_guard("disallow"):
        stream = prefetch(batches(3), sharding)
        for batch in stream:
            double(batch["weight"])
    before = jax.config.jax_transfer_guard
    jax.config.update("jax_transfer_guard", "disallow")
    try:
        assert len(list(prefetch(batches(3), sharding))) == 3
    finally:
        jax.config.update("jax_transfer_guard", before)
