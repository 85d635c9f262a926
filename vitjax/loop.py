"""The steps of a run, in order: train, record, evaluate, checkpoint, stop."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax

from vitjax.checkpoints.best import Best
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.config import durations
from vitjax.devices.stopping import Stopped, StopSignal
from vitjax.evaluators import schedule
from vitjax.program import Program
from vitjax.records.rows import Records
from vitjax.records.skipped import SkipCount


def run(
    state: Any,
    program: Program,
    batches: Iterator[Mapping[str, jax.Array]],
    *,
    records: Records,
    checkpointer: Checkpointer,
    best: Best | None,
    entries: list[schedule.Entry],
    log_steps: int,
    ckpt_steps: int | None,
    meta: dict[str, Any],
    skips: SkipCount | None,
    draw: Callable[[Mapping[str, jax.Array]], None],
    evaluated: Collection[str],
    signal: StopSignal,
) -> None:
    """Run the remaining steps. Rows of step k are on disk before its checkpoint.

    Args:
      batches: of the remaining steps, on the devices.
      meta: what a checkpoint keeps beside the state, and the clock and `skips`.
      draw: is shown the run's first batch.
      evaluated: names of the evaluators whose rows of the first step are there already.
      signal: has been entered.

    Raises:
      Stopped: a signal came; there is a checkpoint, unless no step has been taken.
      ValueError: a metric is not finite, or checkpoints cannot be written.
    """
    clock, progress = records.clock, records.progress
    first_step, total_steps = int(state.step), clock.total_steps

    def beside(step: int) -> dict[str, Any]:
        skipped = int(jax.device_get(skips.total(step))) if skips else 0
        return meta | {"clock": clock.state(), "skipped": skipped}

    def evaluate(step: int, skip: Collection[str] = ()) -> None:
        due = [
            entry
            for entry in entries
            if entry.due(step, total_steps) and entry.name not in skip
        ]
        if not due:
            return
        records.flush()
        row = schedule.run(due, state)
        records.write(step, row)
        progress.evaluation(step, row)
        if best is not None:
            with jax.transfer_guard("allow"):  # orbax's own copies to the host
                best.offer(step, row, state, beside(step))

    def save(step: int) -> None:
        records.flush()
        with jax.transfer_guard("allow"):
            if best is not None:
                # A run that goes on from `step` does not evaluate it again.
                best.settle()
            checkpointer.save(step, state, beside(step))

    evaluate(first_step, skip=evaluated)
    if signal.due(first_step) and first_step < total_steps:
        records.flush()
        raise Stopped(first_step, saved=False)
    step, stopped = first_step, False
    # Everything that crosses to a device from here on does so by name.
    with jax.transfer_guard("disallow"):
        for step in range(first_step + 1, total_steps + 1):
            batch = next(batches)
            if step == 1:
                draw(batch)
            state, step_metrics = program.train_step(state, batch, program.key)
            if step == first_step + 1:
                # The first step waits for the compiler: it is not timed.
                jax.block_until_ready(step_metrics)
                clock.begin(step)
            records.flush()  # of an earlier step, now that this one is under way
            progress.advance()
            checkpointer.poll()
            if durations.due(step, log_steps, total_steps):
                skipped = {"skipped": skips.total(step)} if skips else {}
                records.hold(step, {**step_metrics, **skipped})
            stops = signal.due(step)
            saves = durations.due(step, ckpt_steps, total_steps, first=bool(ckpt_steps))
            if stops or saves or any(e.due(step, total_steps) for e in entries):
                jax.block_until_ready(state)
                clock.pause(step)
                records.flush()
                records.check_finite(step, step_metrics)
                evaluate(step)
                if stops or saves:
                    save(step)
                clock.begin(step)
            stopped = stops and step < total_steps
            if stopped:
                break
        records.flush()
        checkpointer.finish()
        if best is not None:
            best.settle()
    if stopped:
        raise Stopped(step)
