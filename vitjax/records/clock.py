"""Measure the wall-clock time of a run: throughput, core hours, time left."""

import time
from collections.abc import Callable
from typing import Any


class Clock:
    """A clock of examples and seconds that excludes evaluation and checkpoints.

    It does the work of big_vision's global `u.chrono`: a run makes one and passes it
    on.
    """

    def __init__(
        self,
        *,
        total_steps: int,
        batch_size: int,
        data_size: int,
        num_devices: int,
        now: Callable[[], float] = time.monotonic,
    ):
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.data_size = data_size
        self.num_devices = num_devices
        self._now = now
        self._start = now()
        self._since: float | None = None
        self._since_step = 0
        self._last_rate: float | None = None
        self.train_seconds = 0.0

    def begin(self, step: int) -> None:
        """Start timing at `step`; call once the first step has been compiled."""
        self._since, self._since_step = self._now(), step

    def pause(self, step: int) -> None:
        """Stop timing; `begin` resumes it."""
        self._close(step)
        self._since = None

    def _close(self, step: int) -> None:
        if self._since is None:
            return
        seconds = self._now() - self._since
        if seconds > 0 and step > self._since_step:
            self._last_rate = (step - self._since_step) * self.batch_size / seconds
        self.train_seconds += seconds

    def tick(self, step: int) -> dict[str, int | float]:
        """Return measurements at `step`, over the steps since the last tick or pause.

        img/sec and img/sec/core are present after the first timed interval.
        """
        self._close(step)
        if self._since is not None:
            self.begin(step)
        rows = {
            "examples_seen": step * self.batch_size,
            "epoch": step * self.batch_size / self.data_size,
            "progress": step / self.total_steps,
            "time/uptime": self._now() - self._start,
            "time/core_hours": self.train_seconds * self.num_devices / 3600,
        }
        if self._last_rate is not None:
            rows["img/sec"] = self._last_rate
            rows["img/sec/core"] = self._last_rate / self.num_devices
        return rows

    def eta_seconds(self, step: int) -> int | float | None:
        """Return the seconds of training left at the last rate; None without a rate."""
        if self._last_rate is None:
            return None
        return (self.total_steps - step) * self.batch_size / self._last_rate

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON values."""
        return {"train_seconds": self.train_seconds}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from the `state()` of an earlier process."""
        self.train_seconds = state["train_seconds"]
