"""Turning a step's metrics into rows, one step late, so that no step waits for them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.records.clock import Clock
from vitjax.records.jsonl import MetricWriter
from vitjax.records.progress import Progress
from vitjax.records.skipped import SkipCount

PATIENCE = 20
"""Skipped updates in a row that a smaller loss scale cannot explain."""


class NotFinite(ValueError):
    """A metric of a logged step is NaN or infinite."""


def rate_table(
    lr_fns: Sequence[Callable[[Any], Any]], total_steps: int, lr: float
) -> dict[str, np.ndarray]:
    """lr and global_schedule of every update, by metric name; update 0 makes step 1.

    Computed once for the whole run: per row it would be work on the device, queued
    behind the step that is already under way.
    """
    counts = jnp.arange(total_steps)
    table = {}
    for i, lr_fn in enumerate(lr_fns):
        rates = np.asarray(jax.jit(jax.vmap(lr_fn))(counts), np.float64)
        suffix = str(i) if i else ""
        table[f"lr{suffix}"] = rates
        table[f"global_schedule{suffix}"] = rates / lr if lr else 0 * rates
    return table


class Records:
    """Holds the metrics of at most one step back until the next one is under way."""

    def __init__(
        self,
        writer: MetricWriter,
        clock: Clock,
        progress: Progress,
        rates: dict[str, np.ndarray],
        first_step: int,
        last_good: Callable[[], int | None],
        skips: SkipCount | None = None,
        recorded: Collection[str] = (),
        draw: Callable[[Any], None] = lambda batch: None,
    ):
        """Collect for `writer`, `clock` and `progress`.

        Args:
          rates: see `rate_table`.
          first_step: the step of the state that the run starts from.
          last_good: gives the step of the newest checkpoint, for messages.
          skips: the count of replaced examples, if there may be any.
          recorded: names of the metrics of `first_step` that are on disk already.
          draw: is shown the run's first batch.
        """
        self.writer = writer
        self.clock = clock
        self.progress = progress
        self._last_good = last_good
        self._rates = rates
        self._held: tuple[int, Any] | None = None
        self._finite_step = first_step
        self._skips = skips
        self.recorded, self.draw = recorded, draw

    def counters(self, step: int) -> dict[str, Any]:
        """What the records of a resumed run start from, as JSON values."""
        skipped = int(jax.device_get(self._skips.total(step))) if self._skips else 0
        return {"clock": self.clock.state(), "skipped": skipped}

    def hold(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep the (device) metrics of a step for the next `flush`."""
        skipped = {"skipped": self._skips.total(step)} if self._skips else {}
        self._held = (step, {**metrics, **skipped})

    def evaluation(self, step: int, row: Mapping[str, float]) -> None:
        """Write a row of evaluations, and show it."""
        self.write(step, row)
        self.progress.evaluation(step, row)

    def flush(self) -> None:
        """Fetch what is held and write its row; does nothing if nothing is held.

        Raises NotFinite if a value is NaN or infinite, after the row is written.
        """
        if self._held is None:
            return
        (step, metrics), self._held = self._held, None
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        timing = self.clock.tick(step)
        rates = {name: float(rates[step - 1]) for name, rates in self._rates.items()}
        row = {**values, **rates, **timing}
        self.write(step, row)
        self.progress.row(step, row, self.clock.eta_seconds(step))
        self._check(step, values)

    def write(self, step: int, row: Mapping[str, Any]) -> None:
        """Write a row. Raises ValueError if there is no room for it on the disk.

        What a checkpoint has written so far is given up before, as it needs more room.
        """
        try:
            self.writer.write(step, row)
        except OSError:
            good = self._last_good()
            try:
                self.writer.write(step, row)
            except OSError as error:
                raise ValueError(
                    f"the row of step {step} cannot be written ({error}); {_saved(good)}: "
                    "make room there, then the same command goes on from it"
                ) from error

    def check_finite(self, step: int, metrics: Any) -> None:
        """Raise NotFinite unless the metrics of a step that is about to be saved are."""
        self._check(step, {k: float(v) for k, v in jax.device_get(metrics).items()})

    def _check(self, step: int, values: dict[str, float]) -> None:
        # A gradient that was too large for its scale was skipped, and changed nothing.
        skipped = values.get("update_skipped") == 1
        excused = ("training_loss", "l2_grads") if skipped else ()
        wrong = [
            f"{k} = {v}"
            for k, v in values.items()
            if not math.isfinite(v) and k not in excused
        ]
        stuck = values.get("most_skipped_updates_in_a_row", 0) >= PATIENCE
        if not wrong and not stuck:
            self._finite_step = step
            return
        saved = _saved(self._last_good())
        if stuck:
            raise NotFinite(
                f"{PATIENCE} updates in a row were skipped before step {step}, as their "
                f"gradients were not finite at any loss scale; {saved}; try a lower lr, "
                "or dtype_mm='bfloat16'"
            )
        raise NotFinite(
            f"training became non-finite between steps {self._finite_step + 1} and "
            f"{step} ({', '.join(wrong)}); {saved}; try a lower lr, a longer warm-up "
            "or grad_clip_norm"
        )


def _saved(step: int | None) -> str:
    if step is None:
        return "there is no checkpoint"
    return f"the last good checkpoint is that of step {step}"
