"""Turn the metrics of a step into rows, one step late, so that no step waits."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitjax.devices.sharding import batch_sharding, replicated
from vitjax.records.clock import Clock
from vitjax.records.jsonl import MetricWriter
from vitjax.records.progress import Progress

PATIENCE = 20
"""Skipped updates in a row that a smaller loss scale cannot explain."""


class NotFinite(ValueError):
    """A metric of a logged step is NaN or infinite."""


def rate_table(
    lr_fns: Sequence[Callable[[Any], Any]], total_steps: int, lr: float
) -> dict[str, np.ndarray]:
    """Return lr and global_schedule of every update, by metric name.

    Update 0 makes step 1. The table is computed once for the whole run: computed for
    each row, it would wait on the device for the step that runs.
    """
    counts = jnp.arange(total_steps)
    table = {}
    for i, lr_fn in enumerate(lr_fns):
        rates = np.asarray(jax.jit(jax.vmap(lr_fn))(counts), np.float64)
        suffix = str(i) if i else ""
        table[f"lr{suffix}"] = rates
        table[f"global_schedule{suffix}"] = rates / lr if lr else 0 * rates
    return table


class SkipCount:
    """The metric `skipped`: how many unreadable examples were replaced so far.

    It counts over all processes, and never blocks.
    """

    def __init__(
        self,
        skipped: Callable[[int, int], int],
        mesh: Mesh,
        *,
        first_step: int,
        before: int,
    ):
        """Count from `first_step` on; `before` examples were skipped until then.

        `skipped(start, stop)` is the number of skipped examples among this process's
        rows of the batches start..stop - 1.
        """
        self._skipped = skipped
        self._first_step = first_step
        self._rows = batch_sharding(mesh)
        self._num_local = len(mesh.local_devices)
        self._sum = jax.jit(
            lambda rows: before + jnp.sum(rows), out_shardings=replicated(mesh)
        )

    def total(self, step: int) -> jax.Array:
        """Return the count after `step` steps, int32[].

        All processes must call it for the same steps.
        """
        mine = np.zeros(self._num_local, np.int32)
        mine[0] = self._skipped(self._first_step, step)
        return self._sum(jax.make_array_from_process_local_data(self._rows, mine))


class Records:
    """The records of a run; metrics of a step are held back until the next one runs."""

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
        """Collect rows for `writer`, `clock` and `progress`.

        Args:
          rates: see `rate_table`.
          first_step: the step of the state that the run starts from.
          last_good: returns the step of the newest checkpoint, for messages.
          skips: the count of replaced examples, if examples may be replaced.
          recorded: names of the metrics of `first_step` that are already on disk.
          draw: called with the run's first batch.
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
        """Return what the records of a resumed run start from, as JSON values."""
        skipped = int(jax.device_get(self._skips.total(step))) if self._skips else 0
        return {"clock": self.clock.state(), "skipped": skipped}

    def hold(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep the (device) metrics of a step for the next `flush`."""
        skipped = {"skipped": self._skips.total(step)} if self._skips else {}
        self._held = (step, {**metrics, **skipped})

    def evaluation(self, step: int, row: Mapping[str, float]) -> None:
        """Write and show a row of evaluations."""
        self.write(step, row)
        self.progress.evaluation(step, row)

    def flush(self) -> None:
        """Fetch the held metrics and write their row, if there are any.

        Raises NotFinite, after writing the row, if a value is NaN or infinite.
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
        """Write a row. Raises ValueError if it cannot be written, e.g. to a full disk.

        After a failed attempt, it waits for the checkpoint in progress and tries again:
        a failed checkpoint is removed, which makes room.
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
                    "free some space and run the same command again to resume from it"
                ) from error

    def check_finite(self, step: int, metrics: Any) -> None:
        """Raise NotFinite if a metric of a step to be saved is not finite."""
        self._check(step, {k: float(v) for k, v in jax.device_get(metrics).items()})

    def _check(self, step: int, values: dict[str, float]) -> None:
        # An update whose scaled gradient overflowed was skipped, and changed nothing.
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
                f"{PATIENCE} updates in a row were skipped before step {step}, because "
                f"their gradients were not finite at any loss scale; {saved}; try a lower lr, "
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
    return f"the last good checkpoint is of step {step}"
