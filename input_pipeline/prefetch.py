"""Copy numpy batches to the devices as global jax.Arrays, ahead of use, in a thread."""

import queue
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import jax
import numpy as np

_END = object()


def prefetch(
    iterable: Iterable[dict[str, np.ndarray]],
    sharding: jax.sharding.Sharding,
    *,
    size: int = 2,
    keys: Collection[str] | None = None,
) -> Iterator[dict[str, jax.Array]]:
    """Yield the batches of `iterable` on the devices, at most `size` of them ahead.

    A thread takes this process's rows of each batch and starts their copy to the
    devices. It starts at the first `next` and ends with the generator. int64 becomes
    int32; no other dtype changes. An error of the iterable is raised here, after the
    batches before it.

    Args:
      iterable: dicts of arrays whose first axis is this process's rows.
      sharding: of the first axis of the global arrays.
      size: how many batches may be copied, or in copy, and not yet taken.
      keys: which entries of the batches to copy; the others are dropped. None is all.
    """
    if size < 1:
        raise ValueError(f"the size of prefetch must be at least 1, got {size}")
    return _prefetch(iterable, sharding, size, keys)


def _prefetch(iterable, sharding, size, keys):
    free = threading.Semaphore(size)
    ready: queue.SimpleQueue = queue.SimpleQueue()
    stopped = threading.Event()

    def produce():
        try:
            batches = iter(iterable)
            while True:
                free.acquire()
                if stopped.is_set():
                    return
                batch = next(batches, _END)
                if batch is _END:
                    break
                ready.put((to_devices(batch, sharding, keys), None))
        except BaseException as error:
            ready.put((_END, error))
        else:
            ready.put((_END, None))

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is _END:
                return
            free.release()
            yield batch
            del batch  # else one more batch than `size` stays on the devices
    finally:
        stopped.set()
        free.release()
        # The thread finishes one batch at most; a source that hangs is left behind.
        thread.join(timeout=10)


def to_devices(
    batch: Any,
    sharding: jax.sharding.Sharding,
    keys: Collection[str] | None = None,
) -> dict[str, jax.Array]:
    """Return this process's rows of a batch as global arrays, with copies started."""
    return {
        name: jax.make_array_from_process_local_data(sharding, _narrow(batch[name]))
        for name in (batch if keys is None else keys)
    }


def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32) if array.dtype == np.int64 else array
