"""Train a Vision Transformer: `python -m vitjax.train --config configs/quickstart.py`."""

import argparse
import contextlib
import dataclasses
import logging as python_logging
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from input_pipeline import home
from vitjax import data as feeding
from vitjax import loop
from vitjax import program as program_lib
from vitjax.checkpoints.best import Best
from vitjax.checkpoints.checkpointer import Checkpointer, locate
from vitjax.config import arguments, experiment
from vitjax.config import files as config_lib
from vitjax.devices import failures, peers, startup
from vitjax.devices import sharding as sharding_lib
from vitjax.devices.stopping import STATUS, Stopped, StopSignal
from vitjax.evaluators import schedule
from vitjax.files import or_without
from vitjax.records import jsonl, pictures, sinks
from vitjax.records.clock import Clock
from vitjax.records.progress import Progress
from vitjax.records.rows import Records, rate_table
from vitjax.records.skipped import SkipCount
from vitjax.records.workdir import (
    learned_differences,
    locked,
    refuse_other_config,
    write_config,
)
from vitjax.step import copied
from vitjax.trees import count
from vitjax.weights.fit import load_into

WANDB_GIVEN = ("workdir", "config")


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, *, force: bool = False
) -> None:
    """Train as `config` says, with records and checkpoints in `workdir`.

    Goes on from the workdir's newest checkpoint if it has one. `force` takes the workdir
    from a run on another host that has locked it. Raises ValueError, in one sentence for
    people, where the config or the data is wrong, and Stopped after a signal.
    """
    from input_pipeline import pipeline, sources

    workdir = Path(workdir)
    settings = config_lib.plain(config)
    e = experiment.from_config(config.to_dict())
    refuse_other_config(workdir, settings)
    if e.wandb:
        arguments.check("wandb", sinks.WandbSink, e.wandb, WANDB_GIVEN)
    mesh = sharding_lib.make_mesh(e.mesh)

    data, data_size = arguments.call(
        "input",
        pipeline.make_train,
        e.input,
        seed=e.seed,
        start_step=0,
        **feeding.processes(),
    )
    sizes = {"data_size": data_size, "batch_size": e.input["batch_size"]}
    sizes["total_steps"] = e.steps("total", **sizes)
    log_steps = e.steps("log_training", **sizes, default=50)
    ckpt_steps = e.steps("ckpt", **sizes, default=None)

    checkpointer = Checkpointer(
        workdir,
        max_to_keep=e.max_to_keep,
        keep_steps=e.steps("keep_ckpt", **sizes, default=None),
    )
    warn = feeding.once(logging.warning)
    data = feeding.as_before(data, *_kept(checkpointer, e), warn)
    _check_classes(data.num_classes, e)
    program = program_lib.build(e, mesh, element_spec=data.element_spec, **sizes)
    classes = {"class_names": data.class_names, "num_classes": e.num_classes}
    if e.relabels:  # nobody knows what its labels are called
        classes = dict.fromkeys(classes)
    entries = schedule.make_entries(
        e.evals,
        predict=program.predict,
        make_data=feeding.eval_data(mesh, **classes, tell=warn),
        mesh=mesh,
        sizes=sizes,
        batch_size=e.batch_size_eval or e.input["batch_size"],
        missing=sources.DataNotFound,
        warn=warn,
        ema=e.ema is not None,
    )

    with contextlib.ExitStack() as open_until_the_end:
        enter = open_until_the_end.enter_context
        signal = enter(StopSignal())
        if jax.process_index() == 0:
            enter(locked(workdir, force))
            checkpointer.remove_partial()
        enter(contextlib.closing(checkpointer))
        state, meta = _first_state(e, program, checkpointer, settings)
        first_step = int(state.step)
        clock = Clock(**sizes, num_devices=mesh.size)
        if meta is not None:
            clock.restore(meta["clock"])
        skips = None
        if data.skip_errors:
            before = meta["skipped"] if meta else 0
            skips = SkipCount(data.skipped, mesh, first_step=first_step, before=before)
        best = _best(e, workdir, entries, enter)
        writer = enter(
            contextlib.closing(_open_records(e, workdir, settings, first_step))
        )
        progress = Progress(
            sizes["total_steps"], first_step, show=not jax.process_index()
        )
        enter(contextlib.closing(progress))
        _announce(progress, state, sizes, workdir)
        rates = rate_table(program.lr_fns, sizes["total_steps"], e.optimizer["lr"])
        enter(peers.left_at_once(workdir))
        loop.run(
            state,
            program,
            iter(
                feeding.OnDevices(
                    data.from_step(first_step), mesh, e.prefetch_to_device
                )
            ),
            records=Records(
                writer, clock, progress, rates, first_step, checkpointer.last_good
            ),
            checkpointer=checkpointer,
            best=best,
            entries=entries,
            log_steps=log_steps,
            ckpt_steps=ckpt_steps,
            meta={
                "seed": e.seed,
                "config": settings,
                "image_shape": list(program.image_shape),
                "class_names": classes["class_names"],
                "data_classes": data.num_classes,
                "data_size": data_size,
            },
            skips=skips,
            draw=lambda batch: _draw(workdir, program, batch, data.class_names),
            evaluated=_evaluated(entries, workdir, first_step),
            signal=signal,
        )
    if jax.process_index() == 0:
        with or_without("curves.png"):
            jsonl.plot_curves(workdir)


def _announce(
    progress: Progress, state: Any, sizes: Mapping[str, int], workdir: Path
) -> None:
    """What runs, and from where on. Raises ValueError if it is over already."""
    first_step, total_steps = int(state.step), sizes["total_steps"]
    if first_step > total_steps:
        raise ValueError(
            f"the checkpoint is of step {first_step}, but the run ends at step "
            f"{total_steps}; give a longer one, or another checkpoint"
        )
    progress.say(
        f"{count(state.params):,} parameters, {sizes['data_size']:,} examples, "
        f"{total_steps:,} steps of {sizes['batch_size']}, records in {workdir}"
    )
    if first_step == total_steps:
        progress.say(
            f"already finished at step {first_step}; another --workdir starts anew"
        )
    elif first_step:
        progress.say(f"goes on from step {first_step}")


def _best(
    e: experiment.Experiment,
    workdir: Path,
    entries: list[schedule.Entry],
    enter: Callable[[Any], Any],
) -> Best | None:
    """The keeper of the best checkpoint, if the config asks for one."""
    if e.ckpt_best is None:
        return None
    best = arguments.call("ckpt_best", Best, e.ckpt_best, workdir=workdir)
    names = [entry.name for entry in entries]
    if e.ckpt_best["metric"].split("/")[0] not in names:
        raise ValueError(
            f"ckpt_best: {e.ckpt_best['metric']!r} is no metric of an evaluator of this "
            f"run ({', '.join(names) or 'there is none'}): name another, or set "
            "ckpt_best=None"
        )
    enter(contextlib.closing(best))
    return best


def _check_classes(found: int | None, e: experiment.Experiment) -> None:
    """Raise ValueError if the data has labels that no output of the model is for.

    onehot makes rows of zeros of them, without a word. A lookup may have changed them.
    """
    if found is not None and found > e.num_classes and not e.relabels:
        raise ValueError(
            f"the data has {found} classes, but num_classes is {e.num_classes}: set it, "
            "and the depth of onehot(...), to at least as many"
        )


def _kept(
    checkpointer: Checkpointer, e: experiment.Experiment
) -> tuple[str, dict[str, Any]]:
    """(which checkpoint the run will start from, what it keeps beside the state)."""
    found = checkpointer.newest_meta()
    if found is not None:
        return str(checkpointer.path / str(found[0])), found[1]
    if e.resume is None:
        return "", {}
    workdir, step = locate(e.resume)
    with contextlib.closing(Checkpointer(workdir)) as other:
        return e.resume, other.meta(step)


def _first_state(
    e: experiment.Experiment,
    program: program_lib.Program,
    checkpointer: Checkpointer,
    settings: dict[str, Any],
) -> tuple[Any, dict[str, Any] | None]:
    """Where the run starts from: (state, what the checkpoint keeps beside it or None).

    In this order (big_vision train.py:323-368).

    1. The newest checkpoint of the workdir. 2. `resume`: the full state of another
    run. 3. `model_init`: the parameters of another run, or of a file. 4. From scratch.
    """
    shapes = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        program.shapes,
        program.shardings,
    )
    found = checkpointer.restore_newest(shapes)
    if found is not None:
        return found
    if e.resume is not None:
        workdir, step = locate(e.resume)
        other = Checkpointer(workdir)
        try:
            meta = other.meta(step)
            old, new = (c | {"resume": None} for c in (meta["config"], settings))
            changed = learned_differences(old, new)
            if changed:
                logging.warning("resume: this run differs: %s", "; ".join(changed))
            return other.restore(step, shapes), meta
        finally:
            other.close()
    state = program.init()
    if e.model_init is not None:
        params = load_into(
            e.model_init,
            shapes.params,
            state.params,
            e.dont_load,
            model=program.model,
            image_shape=program.image_shape,
            stored_grid=e.model_init_grid,
            channels=e.model_init_channels,
        )
        state = dataclasses.replace(state, params=params)
        if e.ema is not None:
            copy = jax.jit(copied, out_shardings=program.shardings.ema)
            state = dataclasses.replace(state, ema=copy(params))
    return state, None


def _evaluated(
    entries: list[schedule.Entry], workdir: Path, step: int
) -> Collection[str]:
    """Names of the evaluators whose row of `step` is on disk.

    The first process looks, and tells the others: all must run the same ones.
    """
    names = jsonl.names_at(workdir, step) if jax.process_index() == 0 else set()
    found = [any(n.startswith(f"{entry.name}/") for n in names) for entry in entries]
    if jax.process_count() > 1:
        found = multihost_utils.broadcast_one_to_all(np.array(found))
    return [entry.name for entry, done in zip(entries, found, strict=True) if done]


def _open_records(
    e: experiment.Experiment, workdir: Path, settings: Any, first_step: int
) -> jsonl.MetricWriter:
    """The writer of this run; only the first process records anything."""
    if jax.process_index() != 0:
        return jsonl.MetricWriter([])
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, settings)
    # A run that begins anew evaluates anew: nothing of an earlier start stays.
    jsonl.cut_after(workdir, first_step or -1)
    return sinks.make_writer(
        workdir,
        settings,
        first_step=first_step,
        tensorboard=e.tensorboard,
        wandb=e.wandb,
    )


def _draw(
    workdir: Path,
    program: program_lib.Program,
    batch: Mapping[str, jax.Array],
    class_names: Sequence[str] | None,
) -> None:
    """train_batch.png: the first rows of the first batch, as the model gets them."""
    step = jax.device_put(np.int32(0), program.key.sharding)
    image, labels = program.preview(batch, program.key, step)
    if jax.process_index() == 0:
        image, labels = jax.device_get((image, labels))
        with or_without("train_batch.png"):
            pictures.draw_batch(workdir / "train_batch.png", image, labels, class_names)


def default_workdir(config_spec: str) -> str:
    """runs/NAME of configs/NAME.py, with the argument, if any, in the name."""
    path, arg = config_lib.split_spec(config_spec)
    return os.path.join("runs", "-".join(filter(None, [path.stem, arg])))


def _check_packages() -> None:
    """The generic package names must all be ours: refuse a stranger's `configs`."""
    import configs
    import input_pipeline
    import vitjax

    homes = {
        os.path.dirname(os.path.dirname(m.__file__ or ""))
        for m in (vitjax, input_pipeline, configs)
    }
    if len(homes) > 1:
        raise ImportError(
            f"vitjax, input_pipeline, and configs come from different folders: {homes}; "
            "start from the checkout, or remove the package that is not ours"
        )


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(flags, config overrides) of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vitjax.train",
        description="Train a Vision Transformer, with records and checkpoints in "
        "WORKDIR. The same command again goes on from the newest checkpoint.",
        epilog="Any key of the config can be set here, also one that the file leaves "
        "out: --config.total_epochs=3 --config.input.batch_size=64 "
        "--config.mixup=None",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="a file with get_config(arg), e.g. configs/vit_s16_i1k.py:preset=fixed",
    )
    add("--workdir", help="where records and checkpoints go (default: runs/NAME)")
    add(
        "--force",
        action="store_true",
        help="take a workdir that a run on another host has locked",
    )
    add(
        "--allow_cpu",
        action="store_true",
        help="go on although an accelerator is present that JAX does not see",
    )
    several = parser.add_argument_group(
        "several processes", "found by itself under SLURM, Open MPI and on TPU pods"
    )
    several.add_argument("--coordinator_address", metavar="HOST:PORT")
    several.add_argument("--num_processes", type=int, metavar="N")
    several.add_argument("--process_id", type=int, metavar="I")
    argv = home.expanded(argv)
    overrides = [a for a in argv if a.startswith("--config.")]
    for text in overrides:
        if "=" not in text:
            parser.error(f"{text} needs its value after an equals sign: {text}=VALUE")
    flags = parser.parse_args([a for a in argv if not a.startswith("--config.")])
    return flags, [text.removeprefix("--config.") for text in overrides]


def cli(argv: Sequence[str] | None = None) -> int:
    """The command line.

    The exit status is 0; 1 after one sentence on stderr; interrupts.STATUS where a signal
    stopped the run in good order; 130 where Ctrl-C did before its first step.
    """
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    workdir = flags.workdir or default_workdir(flags.config)
    logging.set_verbosity(logging.WARNING)
    try:
        _check_packages()
        config, notices = config_lib.from_big_vision(
            config_lib.load(flags.config, overrides)
        )
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
        with peers.left_at_once(workdir):
            train_and_evaluate(config, workdir, force=flags.force)
    except Stopped as stopped:
        what = "with a checkpoint" if stopped.saved else "with nothing new to save"
        _tell(
            f"stopped after step {stopped.step}, {what}: the same command goes on from it"
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
            "--config.accum_freq=2, or more, computes each batch in parts, and `python "
            f"-m vitjax.tools.plan --config {flags.config}` says what fits"
        )
        sentence = failures.sentence(error, less)
        if sentence is None or os.environ.get("VITJAX_TRACEBACK"):
            raise
        _tell(f"error: {sentence}\n(VITJAX_TRACEBACK=1 shows where it comes from)")
        return 1
    except KeyboardInterrupt:
        peers.exit_within(10, 130)
        _tell("interrupted: the same command goes on from the newest checkpoint")
        return 130
    return 0


def _tell(text: str) -> None:
    """On stderr, if anybody reads it: a pipe's reader may have gone, as at Ctrl-C."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """`cli` in a process of its own, where orbax's and tensorstore's noise is kept out.

    Of a checkpoint that cannot be written, orbax logs each thread's traceback beside
    raising it, asyncio logs the failures of the other arrays' writes, and tensorstore's
    late writes find the event loop closed, one by one.
    """
    logging.get_absl_logger().addFilter(
        lambda record: "orbax" not in Path(record.pathname).parts
    )
    python_logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    sys.unraisablehook = lambda found: (
        None
        if str(found.exc_value) == "Event loop is closed"
        else sys.__unraisablehook__(found)
    )
    status = cli(argv)
    if status in (0, STATUS):
        peers.done(status)
    return status


if __name__ == "__main__":
    failures.raise_on_interrupt()
    sys.exit(main())
