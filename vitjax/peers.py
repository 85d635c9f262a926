"""Several processes: when one dies, the others say so, and go, instead of hanging."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax

from vitjax.interrupts import STATUS

# Of a connection that has broken, as gloo, NCCL and JAX's own service tell it.
_LOST = ("gloo", "nccl", "connection", "coordination", "peer", "barrier", "unavailable")


def farewell(workdir: str | Path) -> str:
    """The sentence: a peer died, what is saved, how to go on."""
    places = (Path(workdir) / "checkpoints").glob("*")
    steps = [int(place.name) for place in places if place.name.isdigit()]
    saved = f"the last checkpoint is of step {max(steps)}" if steps else (
        "there is no checkpoint yet"
    )  # fmt: skip
    return (
        f"a peer of process {jax.process_index()} died or cannot be reached; {saved}: "
        "start all processes again with the same command, and the run goes on from there"
    )


def is_lost(error: BaseException) -> bool:
    """Whether JAX raised this because another process does not answer."""
    text = str(error).lower()
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    return several and any(word in text for word in _LOST)


def leave(workdir: str | Path) -> None:
    """Say `farewell` and end this process with STATUS; nobody is waited for."""
    sys.stdout.flush()
    os.write(2, f"\n{farewell(workdir)}\n".encode())
    os._exit(STATUS)


@contextlib.contextmanager
def left_at_once(workdir: str | Path) -> Iterator[None]:
    """To `leave` where a peer is lost, before anybody tidies up together with it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if is_lost(error):
            leave(workdir)
        raise


def leave_on_abort(workdir: str | Path) -> None:
    """From now on, what JAX does when it misses a peer's heartbeat is to `leave`.

    It aborts the process from a thread of its own, past all Python. So the handler is
    one of C: Python's own would wait for the main thread, which waits for the peer.
    """
    if jax.process_count() == 1:
        return
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: leave(workdir))
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handler))  # it is never let go
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def exit_within(seconds: int | float, status: int) -> None:
    """After an error of this process alone: the end does not wait long for the others.

    JAX would wait for minutes, while they wait for this one in a step.
    """
    if jax.distributed.is_initialized():
        timer = threading.Timer(seconds, os._exit, [status])
        timer.daemon = True
        timer.start()
