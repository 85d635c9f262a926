"""Estimate the memory of devices and host that a run will need."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import program
from vitjax.config.experiment import Experiment
from vitjax.devices import sharding
from vitjax.step import check_batch_size

# Resident host MB for a small data set, measured by
# `python -m input_pipeline.benchmark_memory`, and bytes for each further example: its
# position, or its name and position.
HOST_MB = 850
PLACE_BYTES = {"tfds": 8, "folder": 30}


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """The GiB of one device that a step uses."""

    accum_freq: int
    remat_policy: str  # "" for a model without one
    state: float  # parameters, moments, EMA
    plan: float  # XLA's plan of the whole step, the state included
    kept: float  # what the forward pass keeps for the backward pass, unfused


def build(
    e: Experiment, spec: Mapping[str, Any], sizes: Mapping[str, int]
) -> program.Program:
    """Build the program of an experiment; ValueError if that is impossible."""
    mesh = sharding.make_mesh(e.mesh)
    return program.build(e, mesh, element_spec=spec, **sizes, labels=None)


def device_memory(
    e: Experiment, spec: Mapping[str, Any], sizes: Mapping[str, int]
) -> DeviceMemory:
    """Compile the step of an experiment and read XLA's plan of its memory.

    Raises ValueError if accum_freq does not divide.
    """
    mesh = sharding.make_mesh(e.mesh)
    check_batch_size(sizes["batch_size"], mesh, e.accum_freq)
    built = program.build(e, mesh, element_spec=spec, **sizes, labels=None)
    home = sharding.batch_sharding(mesh)
    rows = sizes["batch_size"]
    batch = {
        name: jax.ShapeDtypeStruct(
            (rows, *shape), jax.dtypes.canonicalize_dtype(dtype), sharding=home
        )
        for name, (shape, dtype) in spec.items()
    }
    state = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        built.shapes,
        built.shardings,
    )
    lowered = built.train_step.lower(state, batch, built.key)
    try:
        compiled = lowered.compile(compiler_options=_options())
    except jax.errors.JaxRuntimeError:  # another XLA version lacks these options
        compiled = lowered.compile()
    m: Any = compiled.memory_analysis()
    size = m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes
    at_once = rows // mesh.size // e.accum_freq
    return DeviceMemory(
        accum_freq=e.accum_freq,
        remat_policy=str(getattr(built.model, "remat_policy", None) or ""),
        state=_state_bytes(built) / 2**30,
        plan=(size - m.alias_size_in_bytes) / 2**30,
        kept=_kept_bytes(built, at_once) / 2**30,
    )


def _options() -> dict[str, Any]:
    """Return compiler options for a CPU plan closer to an accelerator's, and faster."""
    if jax.default_backend() != "cpu":
        return {}
    return {
        "xla_backend_optimization_level": 0,  # the machine code is never run
        "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    }


def _state_bytes(built: program.Program) -> int:
    """Return the bytes of the state's shards on one device."""
    sizes = jax.tree.map(
        lambda s, where: np.prod(where.shard_shape(s.shape)) * s.dtype.itemsize,
        built.shapes,
        built.shardings,
    )
    return int(sum(jax.tree.leaves(sizes)))


def _kept_bytes(built: program.Program, rows: int) -> int:
    """Return the bytes that autodiff keeps for `rows` images, without parameters."""
    image = jax.ShapeDtypeStruct((rows, *built.image_shape), jnp.float32)

    def backward(params: Any, image: Any, key: Any) -> Any:
        def out(params: Any) -> Any:
            rngs = {"dropout": key}
            return built.model.apply({"params": params}, image, train=True, rngs=rngs)[
                0
            ]

        return jax.vjp(out, params)[1]  # its leaves are the residuals

    params = built.shapes.params
    kept = jax.eval_shape(backward, params, image, built.key)
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
    own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
    return max(0, total - own)


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
