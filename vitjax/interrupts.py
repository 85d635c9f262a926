"""Stopping in good order when a signal says so: SLURM, Kubernetes, spot machines, Ctrl-C."""

import contextlib
import os
import signal
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

STATUS = 75
"""The exit status of a run that a signal stopped: EX_TEMPFAIL of sysexits.h, try again."""


class Stopped(Exception):
    """A signal ended the run after `step`, of which there is a checkpoint."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


class StopSignal:
    """While it is entered, a first SIGTERM or SIGINT only asks to stop; a second kills.

    Of several processes, one that is asked is enough: JAX's own service, which listens
    to SIGTERM, makes all of them stop after the same step.
    """

    def __init__(self):
        self._asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            for number in (
                [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
            ):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: Any) -> None:
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        text = (
            f"{signal.Signals(number).name}: stopping after this step, with a "
            "checkpoint (once more: at once, without)\n"
        )
        # print is not for signal handlers, and Ctrl-C ends the reader of a pipe first.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), text.encode())
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def due(self, step: int) -> bool:
        """Whether to stop after `step`. Every process asks at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
