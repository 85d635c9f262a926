"""The training loop: train, record, evaluate, checkpoint, stop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax

from input_pipeline import bucket
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
) -> Any:
    """Run the remaining steps, and return the last state.

    Rows of a step are on disk before its checkpoint. A run whose `checkpoints` are over
    ends early, with every evaluation and a checkpoint.

    Args:
      batches: the batches of the remaining steps, on the devices.
      log_steps, ckpt_steps: steps between two rows, and between two checkpoints.
      signal: an entered `StopSignal`.

    Raises:
      Stopped: a signal, or data that cannot be read now, ended the run in good order.
      ValueError: a metric is not finite, or checkpoints cannot be written.
    """
    clock, first_step = records.clock, int(state.step)
    total_steps, over = _before_the_first_step(
        state, evals, records, checkpoints, signal
    )
    step, saved, stopped = first_step, first_step, False
    with jax.transfer_guard("disallow"):  # from here on, transfers must be explicit
        for step in range(first_step + 1, total_steps + 1):
            try:
                batch = next(batches)
            except OSError as error:  # a bucket that has not answered for minutes
                _end_without_data(error, step - 1, saved, state, records, checkpoints)
            if step == 1:
                records.draw(batch)
            state, step_metrics = program.train_step(state, batch, program.key)
            if step == first_step + 1:
                jax.block_until_ready(
                    step_metrics
                )  # not timed: it includes compilation
                clock.begin(step)
            records.flush()  # an earlier row, while this step runs
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
                try:
                    over = _evaluate(step, state, evals, records, checkpoints)
                except bucket.BucketError as error:  # the resumed run evaluates first
                    _end_without_data(error, step, saved, state, records, checkpoints)
                if stops or saves or over:
                    records.flush()
                    checkpoints.save(step, state)
                    saved = step
                clock.begin(step)
            stopped = stops and step < total_steps and not over
            if stopped or over:
                break
        records.flush()
        checkpoints.finish()
    if over and step > first_step:
        records.progress.say(f"stopped early after step {step}: {over}")
    if stopped:
        raise Stopped(step)
    return state


def _before_the_first_step(
    state: Any,
    evals: schedule.Schedule,
    records: Records,
    checkpoints: Checkpoints,
    signal: StopSignal,
) -> tuple[int, str | None]:
    """Evaluate what is due. Return the last step to run, and why the run is over, if so.

    Raises Stopped if a signal came.
    """
    step, total_steps = int(state.step), records.clock.total_steps
    over = _evaluate(step, state, evals, records, checkpoints)
    if over:
        said = f"already stopped early: {over}; a larger ckpt_best.patience goes on"
        records.progress.say(said)
        return step, over
    if signal.due(step) and step < total_steps:
        records.flush()
        raise Stopped(step, saved=False)
    return total_steps, None


def _end_without_data(
    error: OSError,
    step: int,
    saved: int,
    state: Any,
    records: Records,
    checkpoints: Checkpoints,
) -> NoReturn:
    """Save the state of `step`, the last one with a batch, and raise Stopped.

    `saved` is the step that is saved already.
    """
    if jax.process_count() > 1:
        raise error  # the other processes wait for this one in the step
    records.flush()
    if step > saved:
        checkpoints.save(step, state)
    checkpoints.finish()
    raise Stopped(step, saved=step > 0, why=error)


def _evaluate(
    step: int,
    state: Any,
    evals: schedule.Schedule,
    records: Records,
    checkpoints: Checkpoints,
) -> str | None:
    """Run the evaluators that are due. Return why the run ends here early, or None.

    In that case the other evaluators run too, as at the end of every run.
    """

    def evaluate(entries: Sequence[schedule.Entry]) -> None:
        if entries:
            records.flush()
            # A person's evaluator may compute with numpy and JAX.
            with jax.transfer_guard("allow"):
                row = schedule.run(entries, state)
            records.evaluation(step, row)
            checkpoints.offer(step, row, state)

    evaluate(evals.due(step))
    over = checkpoints.over() if step < records.clock.total_steps else None
    if over:
        evaluate(evals.not_due(step))
    return over
