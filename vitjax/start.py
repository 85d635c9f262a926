"""Check the packages of a run, and make the state that it starts from."""

import dataclasses
import os
from importlib.util import find_spec
from typing import Any

import jax

from input_pipeline import places
from vitjax import program as program_lib
from vitjax import weights
from vitjax.checkpoints import run as checkpoints
from vitjax.checkpoints.best import check as check_best
from vitjax.checkpoints.checkpointer import Checkpointer
from vitjax.checkpoints.read import locate
from vitjax.config.experiment import Experiment
from vitjax.evaluators import schedule
from vitjax.mirror import copy
from vitjax.program import Program
from vitjax.records import sinks
from vitjax.step import copied
from vitjax.weights import files, normalisation
from vitjax.weights.fit import load_into


def check_packages() -> None:
    """Raise ImportError if another package shadows `input_pipeline`, a generic name."""
    specs = map(find_spec, ("vitjax", "input_pipeline"))
    homes = {os.path.dirname(os.path.dirname((s and s.origin) or "")) for s in specs}
    if len(homes) > 1:
        raise ImportError(
            f"vitjax and input_pipeline come from different folders: {homes}; start from "
            "another folder, or rename the package that is not ours"
        )


def check(e: Experiment) -> None:
    """Check what needs neither data nor devices. Raises ValueError."""
    program_lib.check(e)
    schedule.check(e.evals)
    sinks.check_wandb(e.wandb)
    check_best(e.ckpt_best)
    for key in ("resume", "model_init"):
        path = getattr(e, key) or ""
        if places.scheme(path) is not None and jax.process_count() > 1:
            raise ValueError(
                f"{key} in a bucket, {path}, serves one process, and there are "
                f"{jax.process_count()}: copy it to a disk that all of them share"
            )


def with_copies(e: Experiment, newest: Checkpointer) -> Experiment:
    """Return `e` with what the run starts from on this machine, if it is in a bucket.

    Then all that read it see one checkpoint, though its run may write others meanwhile.
    """
    if newest.latest_step() is not None:
        return e
    if e.resume is not None:
        return dataclasses.replace(e, resume=str(copy.checkpoint(e.resume)))
    if e.model_init is not None:
        return dataclasses.replace(e, model_init=str(files.local(e.model_init)))
    return e


def first_state(
    e: Experiment,
    program: Program,
    newest: Checkpointer,
    settings: dict[str, Any],
) -> tuple[Any, dict[str, Any] | None]:
    """Return (state, JSON item of its checkpoint or None) at the start of the run.

    The first of these that exists is used (big_vision train.py:323-368):

    1. The newest checkpoint of the workdir.
    2. `resume`: the full state of another run.
    3. `model_init`: the parameters of another run, or of a file.
    4. A fresh initialization.
    """
    shapes = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        program.shapes,
        program.shardings,
    )
    found = checkpoints.restore(newest, e.resume, shapes, settings)
    if found is not None:
        return found
    state = program.init()
    if e.model_init is not None:
        if jax.process_index() == 0:  # the file is read for it
            print(_begins(e), flush=True)
            specs = (e.input.get("pp") or "", e.device_pp)
            if (other := normalisation.unlike(e.model_init, *specs)) is not None:
                weights.warn(other)
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


def _begins(e: Experiment) -> str:
    """Return a line on `model_init`: its step, what stays fresh, the normalisation."""
    where = str(e.model_init)
    if not weights.is_file(where):
        where += f", step {locate(where)[1]:,}"
    fresh = f"; fresh: {', '.join(e.dont_load)}" if e.dont_load else ""
    images = normalisation.of_ops(e.input.get("pp") or "", e.device_pp)
    how = f"; images get {images}" if images is not None else ""
    return f"starts from {where}{fresh}{how}"
