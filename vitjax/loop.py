"""The steps of a run, in order: train, record, evaluate, checkpoint, stop."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vitjax.checkpoints.run import Checkpoints
from vitjax.config import durations
from vitjax.devices.stopping import Stopped, StopSignal
from vitjax.evaluators import schedule
from vitjax.program import Program
from vitjax.records.rows import Records


def run(
    state: Any,
    program: Program,
    batches: Iterator[Mapping[str, jax.Array]],
    *,
    records: Records,
    checkpoints: Checkpoints,
    evals: schedule.Schedule,
    log_steps: int,
    ckpt_steps: int | None,
    signal: StopSignal,
) -> None:
    """Run the remaining steps. Rows of step k are on disk before its checkpoint.

    Args:
      batches: of the remaining steps, on the devices.
      log_steps, ckpt_steps: a row, and a checkpoint, every so many steps.
      signal: has been entered.

    Raises:
      Stopped: a signal came; there is a checkpoint, unless no step has been taken.
      ValueError: a metric is not finite, or checkpoints cannot be written.
    """
    clock = records.clock
    first_step, total_steps = int(state.step), clock.total_steps

    def evaluate(step: int) -> None:
        due = evals.due(step)
        if due:
            records.flush()
            row = schedule.run(due, state)
            records.evaluation(step, row)
            checkpoints.offer(step, row, state)

    evaluate(first_step)
    if signal.due(first_step) and first_step < total_steps:
        records.flush()
        raise Stopped(first_step, saved=False)
    step, stopped = first_step, False
    # Everything that crosses to a device from here on does so by name.
    with jax.transfer_guard("disallow"):
        for step in range(first_step + 1, total_steps + 1):
            batch = next(batches)
            if step == 1:
                records.draw(batch)
            state, step_metrics = program.train_step(state, batch, program.key)
            if step == first_step + 1:
                # The first step waits for the compiler: it is not timed.
                jax.block_until_ready(step_metrics)
                clock.begin(step)
            records.flush()  # of an earlier step, now that this one is under way
            records.progress.advance()
            checkpoints.poll()
            if durations.due(step, log_steps, total_steps):
                records.hold(step, step_metrics)
            stops = signal.due(step)
            saves = durations.due(step, ckpt_steps, total_steps, first=bool(ckpt_steps))
            if stops or saves or evals.due(step):
                jax.block_until_ready(state)
                clock.pause(step)
                records.flush()
                records.check_finite(step, step_metrics)
                evaluate(step)
                if stops or saves:
                    records.flush()
                    checkpoints.save(step, state)
                clock.begin(step)
            stopped = stops and step < total_steps
            if stopped:
                break
        records.flush()
        checkpoints.finish()
    if stopped:
        raise Stopped(step)
