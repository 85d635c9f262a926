"""Find what to change in a config whose training step does not fit its devices.

A step is compiled for the same devices, without running it, and XLA's plan of its memory
is read. A few plans must do, because compiling takes up to minutes.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from vitjax import program
from vitjax.config.experiment import Experiment
from vitjax.devices import failures
from vitjax.devices.chips import USABLE
from vitjax.estimate.compiled import TooLarge, memory

MAX_PLANS = 4
MAX_SECONDS = 300
"""Seconds after which no further plan is begun."""

GENERAL = (
    "--config.accum_freq=2, or more, computes each batch in parts; "
    "--config.model.remat_policy=nothing_saveable and dtype_mm=bfloat16 need less too"
)


def doubled(accum_freq: int, batch_size: int, devices: int) -> Iterator[int]:
    """Yield `accum_freq` and its doubles, as long as they divide the batch."""
    while batch_size % (accum_freq * devices) == 0:
        yield accum_freq
        accum_freq *= 2


def limit(device: Any) -> float | None:
    """Return the bytes that a program may take on a device; None if JAX cannot tell."""
    found = (device.memory_stats() or {}).get("bytes_limit")
    return None if found is None else USABLE * found


def explain(
    error: BaseException,
    e: Experiment,
    built: program.Program,
    spec: Mapping[str, Any],
    sizes: Mapping[str, int],
    *,
    fixed: bool,
) -> str:
    """Return one sentence on a training for which a device has too little memory.

    Args:
      error: what JAX raised. e, spec, sizes: what `program.build` got for `built`.
      fixed: propose only keys that may change when a run resumes.
    """
    device = built.mesh.local_devices[0]
    said = failures.full("the training", error, device.device_kind)
    room = limit(device)
    if room is None or jax.process_count() > 1:
        return f"{said}; {GENERAL}"
    try:
        found = remedy(e, built, spec, sizes, room, fixed=fixed)
    except jax.errors.JaxRuntimeError:  # the compiler's, which says nothing of a plan
        return f"{said}; {GENERAL}"
    if found is None:
        return (
            f"{said}; no plan with more microbatches, less kept or smaller types fits: "
            "take a smaller model, or split the parameters over more devices with "
            "--config.sharding_strategy=\"[('.*', 'fsdp(\\\"data\\\", 1)')]\""
        )
    flags, planned = found
    return (
        f"{said}; {flags} fits, by a plan that takes {planned / 2**30:.3g} of the usable "
        f"{room / 2**30:.3g} GiB"
    )


def remedy(
    e: Experiment,
    built: program.Program,
    spec: Mapping[str, Any],
    sizes: Mapping[str, int],
    room: float,
    *,
    fixed: bool,
) -> tuple[str, float] | None:
    """Return (flags, planned bytes) of the first plan that takes at most `room` bytes.

    More microbatches come first, since they change nothing else, then recomputing the
    blocks, then, unless `fixed`, products in bfloat16. None if no plan fits.
    """
    begun = time.monotonic()
    candidates = _candidates(e, built, sizes["batch_size"], fixed)
    least = 1.0  # microbatches that seem to be needed, in proportion to the last plan
    for _ in range(MAX_PLANS):
        chosen = next((c for c in candidates if c[0].accum_freq >= least or c[2]), None)
        if chosen is None or time.monotonic() - begun > MAX_SECONDS:
            return None
        candidate, flags, _ = chosen
        total, temporaries = _plan(candidate, built.mesh, spec, sizes)
        if total <= room:
            return flags, total
        left = room - (total - temporaries)
        least = candidate.accum_freq * temporaries / left if left > 0 else math.inf
    return None


def _candidates(
    e: Experiment, built: program.Program, batch_size: int, fixed: bool
) -> Iterator[tuple[Experiment, str, bool]]:
    """Yield (experiment, its flags, whether it is planned even if it seems too large).

    That is so for the last number of microbatches, and for all that follows it.
    """
    accums = list(doubled(2 * e.accum_freq, batch_size, built.mesh.size))
    flags: list[str] = []
    for accum in accums:
        e = dataclasses.replace(e, accum_freq=accum)
        flags = [f"--config.accum_freq={accum}"]
        yield e, flags[0], accum == accums[-1]
    changes = {"remat_policy": "nothing_saveable"}
    if not fixed:
        changes["dtype_mm"] = "bfloat16"
    for name, value in changes.items():
        if getattr(built.model, name, value) not in (value, "float16"):
            e = dataclasses.replace(e, model={**e.model, name: value})
            flags.append(f"--config.model.{name}={value}")
            yield e, " ".join(flags), True


def _plan(
    e: Experiment, mesh: Any, spec: Mapping[str, Any], sizes: Mapping[str, int]
) -> tuple[float, float]:
    """Return XLA's plan of a step in bytes of a device: (all, temporaries alone)."""
    lowered = program.build(e, mesh, element_spec=spec, **sizes, labels=None).lower()
    # Choosing kernels by timing them takes memory of the device, which is full.
    on_gpu = mesh.devices.flat[0].platform == "gpu"
    options = {"xla_gpu_autotune_level": 0} if on_gpu else None
    try:
        return memory(lowered.compile(compiler_options=options))
    except jax.errors.JaxRuntimeError as error:
        # A plan that is refused, as on TPUs, has an amount; an allocation has none.
        needed = TooLarge(str(error)).memory
        if needed is None or not failures.is_out_of_memory(error):
            raise
        return needed, needed
