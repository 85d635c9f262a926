"""Compile the step of a config, and estimate what it takes of devices and host."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitjax import program
from vitjax.config.experiment import Experiment
from vitjax.devices import chips, failures, sharding, startup
from vitjax.devices.chips import GIB
from vitjax.estimate import compiled, tables

# Resident host MB for a small data set, measured by
# `python -m input_pipeline.benchmark_memory`, and bytes for each further example: its
# position, or its name and position.
HOST_MB = 850
PLACE_BYTES = {"tfds": 8, "folder": 30}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a step is compiled for: absent chips, or the devices of this machine."""

    devices: Sequence[Any]
    chip: chips.Chip | None  # None: in no table, such as a CPU
    target: chips.Target | None  # None: the devices of this machine
    name: str

    @property
    def on_cpu(self) -> bool:
        """Whether XLA compiles for a CPU."""
        return self.devices[0].platform == "cpu"

    def compile(self, lowered: Any) -> Any:
        """Compile a program. Raises compiled.TooLarge."""
        if self.target is not None:
            return compiled.compile_for(lowered, self.target)
        try:
            return lowered.compile(compiler_options=_options(self.on_cpu))
        except jax.errors.JaxRuntimeError as error:
            if failures.is_out_of_memory(error):
                raise compiled.TooLarge(str(error)) from error
            return lowered.compile()  # another XLA version lacks these options


def place(target: chips.Target | None) -> Place:
    """Return the place of absent chips; without a target, that of this machine.

    Raises ValueError if there are no such chips.
    """
    if target is not None:
        return Place(chips.devices(target), target.chip, target, str(target))
    devices = jax.devices()
    chip = chips.of_kind(devices[0].device_kind)
    return Place(devices, chip, None, startup.describe())


def build(
    e: Experiment, spec: Mapping[str, Any], sizes: Mapping[str, int], where: Place
) -> program.Program:
    """Build the program of an experiment; ValueError if that is impossible."""
    mesh = sharding.make_mesh(e.mesh, where.devices)
    return program.build(e, mesh, element_spec=spec, **sizes, labels=None)


def step(
    e: Experiment, spec: Mapping[str, Any], sizes: Mapping[str, int], where: Place
) -> dict[str, Any]:
    """Compile the step of an experiment and return its figures, per device.

    They are those of `estimate.tables`, or the memory alone where the chip is unknown.
    Raises ValueError if accum_freq does not divide.
    """
    built = build(e, spec, sizes, where)
    row = {
        "accum_freq": e.accum_freq,
        "remat_policy": str(getattr(built.model, "remat_policy", None) or ""),
        "state GiB": _bytes(built.shapes, built.shardings) / GIB,
    }
    return row | _figures(built.lower(), where, sizes["batch_size"])


def evaluation(
    e: Experiment, spec: Mapping[str, Any], sizes: Mapping[str, int], where: Place
) -> dict[str, Any]:
    """Compile the forward pass on the largest batch of the evaluators; as `step`.

    Images are float32, as the preprocessing leaves them. Its memory includes the
    optimizer's state, which stays on the devices.
    """
    built = build(e, spec, sizes, where)
    usual = e.batch_size_eval or sizes["batch_size"]
    rows = max([s.get("batch_size", usual) for s in e.evals.values()], default=usual)
    if rows % built.mesh.size:
        raise ValueError(
            f"a batch of {rows} is not divisible by {built.mesh.size} device(s) in "
            "evaluation: set batch_size_eval"
        )
    image = jax.ShapeDtypeStruct(
        (rows, *built.image_shape),
        np.float32,
        sharding=sharding.batch_sharding(built.mesh),
    )
    forward = jax.jit(lambda state, x: built.predict(state, x)[0], keep_unused=True)
    lowered = forward.lower(built.abstract_state, image)
    return {"batch_size": rows} | _figures(lowered, where, rows)


def _figures(lowered: Any, where: Place, rows: int) -> dict[str, Any]:
    try:
        found = where.compile(lowered)
    except compiled.TooLarge as error:
        assert where.chip is not None
        return tables.too_large(error.memory, where.chip)
    if where.chip is None:
        total, temporaries = compiled.memory(found)
        return {"memory GiB": total / GIB, "temporaries GiB": temporaries / GIB}
    estimate = compiled.estimate(found, where.chip, len(where.devices))
    return tables.figures(estimate, where.chip, rows)


def _options(on_cpu: bool) -> dict[str, Any]:
    """Return compiler options for a CPU plan closer to an accelerator's, and faster."""
    if not on_cpu:
        return {}
    return {
        "xla_backend_optimization_level": 0,  # the machine code is never run
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }


def _bytes(shapes: Any, shardings: Any) -> int:
    """Return the bytes of a tree's shards on one device."""
    sizes = jax.tree.map(
        lambda s, where: np.prod(where.shard_shape(s.shape)) * s.dtype.itemsize,
        shapes,
        shardings,
    )
    return int(sum(jax.tree.leaves(sizes)))


def host_bytes(
    e: Experiment, outline: Any, batch_bytes: int
) -> tuple[int, dict[str, int]]:
    """Return (host bytes, bytes by part), by the pipeline's measured footprint."""
    section = e.input
    data = section["data"]
    kind = data.get("kind", "tfds")
    n, each = outline.examples, outline.bytes_per_example
    parts = {
        "programme, TensorFlow, compiler": HOST_MB * 10**6,
        "places of examples": PLACE_BYTES.get(kind, 0) * n,
    }
    if outline.in_memory:
        parts["examples, held whole"] = int(n * each)
    buffer = section.get("shuffle_buffer_size")
    if buffer:
        parts["shuffle buffer"] = int(min(buffer, n) * each)
        if section.get("cache_raw"):
            parts["cache_raw"] = int(n * each)
    ahead = 2 + e.prefetch_to_device
    parts[f"{ahead} batches ahead"] = ahead * batch_bytes
    return sum(parts.values()), {k: v for k, v in parts.items() if v}
