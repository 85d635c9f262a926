"""Stop a run cleanly at a signal of SLURM, Kubernetes, a spot machine or Ctrl-C."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

STATUS = 75
"""The exit status of a run that a signal stopped: EX_TEMPFAIL of sysexits.h (retry)."""


class Stopped(Exception):
    """Raised when a signal, or the error `why`, stopped the run after `step`.

    `saved` says whether that step has a checkpoint.
    """

    def __init__(self, step: int, saved: bool = True, why: Exception | None = None):
        super().__init__(step)
        self.step = step
        self.saved = saved
        self.why = why


class StopSignal:
    """Context manager: a first SIGTERM or SIGINT requests a stop, a second one kills.

    With several processes, a signal to one of them is enough: JAX's service, which
    handles SIGTERM, makes all of them stop after the same step.

    Args:
      then: what the first signal causes, for its message.
    """

    def __init__(self, then: str = "stopping after this step, with a checkpoint"):
        self._then = then
        self._asked = False
        self._before: dict[int, Any] = {}
        self._service: int | None = None  # JAX's handler, a C function

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            if jax.process_count() > 1:
                self._service = _swap(signal.SIGTERM, None)
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            # None stands for a C function, which Python cannot restore.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._service is not None:
            _swap(signal.SIGTERM, self._service)

    def _ask(self, number: int, _: Any) -> None:
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        text = (
            f"{signal.Signals(number).name}: {self._then} (a second signal stops at "
            "once)\n"
        )
        # print is not signal-safe, and Ctrl-C may end the reader of a pipe first.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), text.encode())
        if self._service not in (None, int(signal.SIG_IGN)):
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self._service)(signal.SIGTERM)

    def due(self, step: int) -> bool:
        """Return whether to stop after `step`. Every process must ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked


def _swap(number: int, handler: int | None) -> int | None:
    """Install the C handler at the address `handler`, and return the previous one.

    None is the null address, the default action of the signal.
    """
    libc_signal = ctypes.CDLL(None).signal
    libc_signal.restype = ctypes.c_void_p
    libc_signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    return libc_signal(number, handler)
