"""Train a ViT: `python -m vitjax.train --config configs/quickstart.py`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax import command_line
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds
    command_line.parse_flags(sys.argv[1:])  # answers --help before them

import jax
from absl import logging
from ml_collections import ConfigDict

from input_pipeline import places
from vitjax import commands, loop, memory, start
from vitjax import data as data_lib
from vitjax import program as program_lib
from vitjax.checkpoints import run as checkpoints
from vitjax.checkpoints.best import best_of
from vitjax.command_line import parse_flags
from vitjax.config import durations, experiment, files, names
from vitjax.devices import failures, peers, sharding, startup
from vitjax.devices.stopping import STATUS, Stopped, StopSignal
from vitjax.evaluators import schedule
from vitjax.files import or_without
from vitjax.mirror import staging
from vitjax.records import curves
from vitjax.records.run import open_records
from vitjax.records.workdir import has_progress, locked, refuse_other_config, told


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, *, force: bool = False
) -> None:
    """Train according to `config`, with records and checkpoints in `workdir`.

    The run resumes from the workdir's newest checkpoint if there is one. `force` takes
    the workdir from a run on another host that has locked it. Raises ValueError, with
    one readable sentence, if the config or the data is wrong; raises Stopped after a
    signal.
    """
    places.check(workdir, "workdir")
    full = names.full_names(config.to_dict())
    workdir, settings = Path(workdir), files.plain(full)
    e = experiment.from_config(full)
    refuse_other_config(workdir, settings)
    start.check(e)
    mesh = sharding.make_mesh(e.mesh)
    data, sizes = data_lib.open_train(e)
    every = {
        "log_steps": e.steps("log_training", **sizes, default=50),
        "ckpt_steps": e.steps("ckpt", **sizes, default=None),
    }
    newest = checkpoints.newest(workdir, e, sizes)
    e = start.with_copies(e, newest)
    warn = data_lib.once(logging.warning)
    data = data_lib.as_before(data, *checkpoints.kept(newest, e.resume), warn)
    data_lib.check_classes(data.num_classes, e, warn)
    program = program_lib.build(
        e, mesh, element_spec=data.element_spec, **sizes, labels=data.labels
    )
    prepared = [data.prepared]
    entries = _open_evals(e, program, data, mesh, sizes, warn, prepared.append)
    recorded = settings | told(prepared)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        signal = enter(StopSignal())
        if jax.process_index() == 0:
            enter(locked(workdir, force))
            newest.remove_partial()
        enter(contextlib.closing(newest))
        enter(_memory_explained(e, program, data.element_spec, sizes, workdir))
        state, kept = start.first_state(e, program, newest, settings)
        rows = [entry.name for entry in entries]
        best = enter(best_of(e.ckpt_best, workdir, rows, kept))
        records = enter(
            open_records(
                e, workdir, recorded, program, data, state, sizes, kept, newest
            )
        )
        meta = _metadata(e, settings, program, data)
        enter(peers.left_at_once(workdir))
        loop.run(
            state,
            program,
            data_lib.train_batches(data, int(state.step), mesh, e.prefetch_to_device),
            records=records,
            checkpoints=checkpoints.Checkpoints(newest, best, meta, records.counters),
            evals=schedule.Schedule(
                entries, sizes["total_steps"], int(state.step), records.recorded
            ),
            signal=signal,
            **every,
        )
    if jax.process_index() == 0:
        with or_without("curves.png"):
            curves.plot_curves(workdir)


@contextlib.contextmanager
def _memory_explained(
    e: experiment.Experiment,
    program: program_lib.Program,
    spec: Mapping[str, Any],
    sizes: Mapping[str, int],
    workdir: Path,
) -> Iterator[None]:
    """Raise DeviceFull, with what would fit, if a device has too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not failures.is_out_of_memory(error):
            raise
        print("a device has too little memory; looking for what fits", flush=True)
        fixed = has_progress(workdir)
        said = memory.explain(error, e, program, spec, sizes, fixed=fixed)
        raise failures.DeviceFull(said) from error


def _open_evals(
    e: experiment.Experiment,
    program: program_lib.Program,
    data: Any,
    mesh: jax.sharding.Mesh,
    sizes: Mapping[str, int],
    warn: Callable[[str], None],
    note: Callable[[Any], None],
) -> list[schedule.Entry]:
    """Open the evaluators of the config's `evals`, with their data."""
    from input_pipeline.sources import DataNotFound

    classes = data_lib.model_classes(data, e)
    return schedule.make_entries(
        e.evals,
        predict=program.predict,
        make_data=data_lib.eval_data(mesh, **classes, tell=warn, note=note),
        mesh=mesh,
        sizes=sizes,
        batch_size=e.batch_size_eval or sizes["batch_size"],
        missing=DataNotFound,
        warn=warn,
        ema=e.ema is not None,
    )


def _metadata(
    e: experiment.Experiment,
    settings: dict[str, Any],
    program: program_lib.Program,
    data: Any,
) -> dict[str, Any]:
    """Return the JSON values that every checkpoint keeps with its state."""
    return {
        "seed": e.seed,
        "config": settings,
        "image_shape": list(program.image_shape),
        "class_names": data_lib.model_classes(data, e)["class_names"],
        "data_classes": data.num_classes,
        "data_size": data.total_examples,
        "prepared": data.prepared,
    }


@contextlib.contextmanager
def mirrored(
    workdir: str, config: ConfigDict, *, force: bool = False
) -> Iterator[str | Path]:
    """Give the local folder of a workdir in a bucket; another workdir is its own."""
    if places.scheme(workdir) is None:
        yield workdir
        return
    if jax.process_count() > 1:
        raise ValueError(
            f"a workdir in a bucket, {workdir}, serves one process, and there are "
            f"{jax.process_count()}: give one on a disk that all of them share"
        )
    # Before anything is fetched, what is wrong with the config.
    e = experiment.from_config(names.full_names(config.to_dict()))
    start.check(e)
    if e.mirror_seconds <= 0:
        raise ValueError(f"mirror_seconds must be above 0, got {e.mirror_seconds}")
    keeps = e.max_to_keep is None or any(
        e.durations.get(key) is not None for key in durations.keys("keep_ckpt")
    )
    with staging.staged(
        workdir, seconds=e.mirror_seconds, keeps_old=keeps, force=force
    ) as folder:
        yield folder


def cli(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    The status is 0; 1 after an error, with one sentence on stderr; stopping.STATUS if a
    signal stopped the run in order; 130 if Ctrl-C ended it before its first step.
    """
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    workdir = flags.workdir or files.default_workdir(flags.config)
    logging.set_verbosity(logging.WARNING)
    try:
        start.check_packages()
        config, notices = files.from_big_vision(files.load(flags.config, overrides))
        startup.initialize_distributed(
            flags.coordinator_address, flags.num_processes, flags.process_id
        )
        print(f"devices: {startup.describe()}", flush=True)
        idle = startup.idle_accelerator()
        if idle and not flags.allow_cpu:
            raise ValueError(idle)
        for notice in notices:
            print(f"note: {notice}", flush=True)
        startup.enable_compilation_cache()
        if jax.process_count() > 1:
            or_this = ", or this process failed (see above)"
            peers.leave_on_abort(lambda: peers.farewell(workdir, or_this))
        with (
            mirrored(workdir, config, force=flags.force) as here,
            peers.left_at_once(here),
        ):
            train_and_evaluate(config, here, force=flags.force)
    except Stopped as stopped:
        what = "with a checkpoint" if stopped.saved else "with nothing new to save"
        if stopped.why is not None:
            _tell(f"error: {stopped.why}")
        _tell(
            f"stopped after step {stopped.step}, {what}: the same command resumes from it"
        )
        return STATUS
    except (ValueError, TypeError, OSError, ImportError) as error:
        peers.exit_within(10, 1)
        if os.environ.get("VITJAX_TRACEBACK"):
            raise
        _tell(f"error: {error}\n(VITJAX_TRACEBACK=1 shows where it comes from)")
        return 1
    except Exception as error:
        peers.exit_within(10, 1)
        less = (
            "--config.accum_freq=2, or more, computes each batch in parts, and "
            f"`{commands.called('vitjax.tools.plan')} --config {flags.config}` shows what "
            "fits"
        )
        sentence = failures.sentence(error, less)
        if sentence is None or os.environ.get("VITJAX_TRACEBACK"):
            raise
        _tell(f"error: {sentence}\n(VITJAX_TRACEBACK=1 shows where it comes from)")
        return 1
    except KeyboardInterrupt:
        peers.exit_within(10, 130)
        _tell("interrupted: the same command resumes from the newest checkpoint")
        return 130
    return 0


def _tell(text: str) -> None:
    """Print to stderr. Ignores a closed pipe: Ctrl-C may end its reader first."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cli` as the main program, without the messages of orbax's threads.

    Ctrl-C ends it at once until `StopSignal`: a KeyboardInterrupt that Python raises in
    a callback of JAX would be lost.
    """
    startup.quiet_checkpoint_threads()
    status = cli(argv)
    if status in (0, STATUS):
        peers.done(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
