"""Open the records of one run: its rows, clock, progress, counts and pictures."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vitjax.config.experiment import Experiment
from vitjax.records import jsonl, pictures, sinks
from vitjax.records.clock import Clock
from vitjax.records.progress import Progress
from vitjax.records.rows import Records, SkipCount, rate_table
from vitjax.records.workdir import write_config
from vitjax.trees import count


@contextlib.contextmanager
def open_records(
    e: Experiment,
    workdir: Path,
    settings: dict[str, Any],
    program: Any,
    data: Any,
    state: Any,
    sizes: dict[str, Any],
    kept: Mapping[str, Any] | None,
    newest: Any,
) -> Iterator[Records]:
    """Open the records of a run that starts from `state`, and announce the run.

    Args:
      settings: the config as plain values, and what the data told, for config.json.
      program, data: the run's program and training data.
      sizes: data_size, batch_size and total_steps.
      kept: the JSON item of the checkpoint that the run resumes from, if there is one.
      newest: the run's `Checkpointer`.

    Raises ValueError if the run is already over.
    """
    first_step = int(state.step)
    mesh = program.mesh
    clock = Clock(**sizes, num_devices=mesh.size)
    if kept is not None:
        clock.restore(kept["clock"])
    skips = None
    if e.input.get("skip_errors"):
        before = kept["skipped"] if kept else 0
        skips = SkipCount(data.skipped, mesh, first_step=first_step, before=before)
    with contextlib.ExitStack() as stack:
        writer, recorded = _open_writer(e, workdir, settings, first_step)
        stack.enter_context(contextlib.closing(writer))
        progress = Progress(
            sizes["total_steps"], first_step, show=jax.process_index() == 0
        )
        stack.enter_context(contextlib.closing(progress))
        _announce(progress, state, program.trainable, sizes, workdir)
        if e.model.get("attn_impl") == "auto":
            platform = mesh.devices.flat[0].platform
            chosen = program.model.attn_impl
            progress.say(
                f"attn_impl='auto' is {chosen!r} for this model on a {platform}"
            )
        yield Records(
            writer,
            clock,
            progress,
            rates=rate_table(program.lr_fns, sizes["total_steps"], e.optimizer["lr"]),
            first_step=first_step,
            last_good=newest.last_good,
            skips=skips,
            recorded=recorded,
            draw=pictures.first_batch(workdir, program, data.class_names),
        )


def _open_writer(
    e: Experiment, workdir: Path, settings: dict[str, Any], first_step: int
) -> tuple[jsonl.MetricWriter, set[str]]:
    """Return (writer, metrics of `first_step` on disk); the first process writes."""
    if jax.process_index() != 0:
        return jsonl.MetricWriter([]), set()
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, settings)
    # A fresh run drops the rows of an earlier start that never reached a checkpoint.
    jsonl.cut_after(workdir, first_step or -1)
    writer = sinks.make_writer(
        workdir,
        settings,
        first_step=first_step,
        tensorboard=e.tensorboard,
        wandb=e.wandb,
    )
    return writer, jsonl.names_at(workdir, first_step)


def _announce(
    progress: Progress,
    state: Any,
    trainable: int,
    sizes: Mapping[str, int],
    workdir: Path,
) -> None:
    """Print what runs, from which step. Raises ValueError if the run is over."""
    first_step, total_steps = int(state.step), sizes["total_steps"]
    if first_step > total_steps:
        raise ValueError(
            f"the checkpoint is of step {first_step}, but the run ends at step "
            f"{total_steps}; choose a longer run or another checkpoint"
        )
    progress.say(
        f"{count(state.params):,} parameters ({trainable:,} trainable), "
        f"{sizes['data_size']:,} examples, "
        f"{total_steps:,} steps of {sizes['batch_size']}, records in {workdir}"
    )
    if first_step == total_steps:
        progress.say(
            f"already finished at step {first_step}; use another --workdir to start again"
        )
    elif first_step:
        progress.say(f"resumes from step {first_step}")
