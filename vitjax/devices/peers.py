"""Several processes: when one dies, the others say so, and go, instead of hanging."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from vitjax.devices.stopping import STATUS, Stopped

# Of a connection that has broken, as gloo, NCCL and JAX's own service tell it. Both
# libraries' names also stand in messages about this process's own memory and devices.
_LOST = (
    "gloo/transport",
    "connection closed",
    "connection refused",
    "connection reset",
    "broken pipe",
    "socket closed",
    "remote process exited",
    "remote error",
    "heartbeat",
    "coordination service",
    "coordinationservice",
    "barrier",
    "unavailable:",
)


def farewell(workdir: str | Path, or_this: str = "") -> str:
    """The sentence: a peer died, `or_this`, what is saved, how to go on."""
    places = (Path(workdir) / "checkpoints").glob("*")
    steps = [int(place.name) for place in places if place.name.isdigit()]
    saved = f"the last checkpoint is of step {max(steps)}" if steps else (
        "there is no checkpoint yet"
    )  # fmt: skip
    return (
        f"a peer of process {jax.process_index()} died or cannot be reached{or_this}; {saved}: "
        "start all processes again with the same command, and the run goes on from there"
    )


def is_lost(error: BaseException) -> bool:
    """Whether JAX raised this because another process does not answer."""
    text = str(error).lower()
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    return several and any(word in text for word in _LOST)


def leave(sentence: str) -> None:
    """Say it and end this process with STATUS; nobody is waited for."""
    sys.stdout.flush()
    os.write(2, f"\n{sentence}\n".encode())
    os._exit(STATUS)


@contextlib.contextmanager
def left_at_once(workdir: str | Path) -> Iterator[None]:
    """To `leave` where a peer is lost, before anybody tidies up together with it.

    After another error, tidying up may take half a minute, not more: the others wait
    for this process in a step, and it may wait for them.
    """
    try:
        yield
    except Stopped:
        raise
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and is_lost(error):
            leave(farewell(workdir))
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        exit_within(30, status, "".join(traceback.format_exception(error)))
        raise


def leave_on_abort(say: Callable[[], str]) -> None:
    """From now on, what JAX does when it misses a peer's heartbeat is to `leave`."""
    _on_abort(lambda: leave(say()))


def done(status: int) -> None:
    """From now on, an abort ends this process with `status`: its run is over.

    To be called last. At exit, JAX's processes wait for each other; then the first one
    stops the service. Another process that hears of the stop before it hears that the
    wait is over takes the first for dead, and JAX aborts it, after a report of its own.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        _on_abort(lambda: os._exit(status))


def _on_abort(act: Callable[[], None]) -> None:
    """`act` on SIGABRT.

    JAX aborts the process from a thread of its own, past all Python. So the handler is
    one of C: Python's own would wait for the main thread, which waits for the peer.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: act())
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handler))  # it is never let go
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def exit_within(seconds: int | float, status: int, say: str = "") -> None:
    """After an error of this process alone: the end does not wait long for the others.

    JAX would wait for minutes, while they wait for this one in a step. `say` is told
    where it comes to that.
    """
    if not jax.distributed.is_initialized():
        return

    def end() -> None:
        os.write(2, say.encode())
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
