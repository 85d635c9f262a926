"""End the other processes with a message when one dies, instead of hanging."""

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

# Parts of the messages of gloo, NCCL and JAX's coordination service about a broken
# connection. The names of gloo and NCCL alone are no sign of one: they also appear in
# messages about this process's memory and devices.
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
    """Return the message: a peer died, `or_this`, what is saved, how to resume."""
    places = (Path(workdir) / "checkpoints").glob("*")
    steps = [int(place.name) for place in places if place.name.isdigit()]
    saved = f"the last checkpoint is of step {max(steps)}" if steps else (
        "there is no checkpoint yet"
    )  # fmt: skip
    return (
        f"a peer of process {jax.process_index()} died or cannot be reached{or_this}; {saved}: "
        "start all processes again with the same command, and the run resumes from there"
    )


def is_lost(error: BaseException) -> bool:
    """Return whether JAX raised this because another process does not answer."""
    text = str(error).lower()
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    return several and any(word in text for word in _LOST)


def leave(sentence: str) -> None:
    """Print the sentence and end this process with STATUS, waiting for no other."""
    sys.stdout.flush()
    os.write(2, f"\n{sentence}\n".encode())
    os._exit(STATUS)


@contextlib.contextmanager
def left_at_once(workdir: str | Path) -> Iterator[None]:
    """Call `leave` if a peer is lost, before any cleanup that needs the peer.

    After another error, cleanup may take at most 30 s: the others wait for this process
    in a step, and it may wait for them.
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
    """Call `leave` from now on, if JAX aborts because a peer's heartbeat is missing."""
    _on_abort(lambda: leave(say()))


def done(status: int) -> None:
    """Let an abort end this process with `status` from now on; call this last.

    At exit, JAX's processes wait for each other, then the first one stops the service.
    A process that notices the stop before the end of its wait takes the first process
    for dead. JAX then prints a report and aborts that process, although its run is over.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        _on_abort(lambda: os._exit(status))


def _on_abort(act: Callable[[], None]) -> None:
    """Call `act` on SIGABRT.

    JAX aborts the process from a C++ thread. The handler is a C function, because a
    Python handler would wait for the main thread, which waits for the peer.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: act())
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handler))  # never collect it
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def exit_within(seconds: int | float, status: int, say: str = "") -> None:
    """End this process with `status` after `seconds`, if it has not ended by then.

    For an error of this process alone: at its exit, JAX would wait minutes for the
    other processes, which wait for this one in a step. `say` is printed if the time
    runs out. Does nothing for a single process.
    """
    if not jax.distributed.is_initialized():
        return

    def end() -> None:
        os.write(2, say.encode())
        os._exit(status)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
