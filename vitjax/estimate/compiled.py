"""Estimate memory and time of a compiled step from its program.

The time is a roofline: a kernel takes as long as its bytes or its products at a share
of the chip's peak, whichever is longer, and kernels follow one another. It ranks
programs; it is not a measurement.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from vitjax.devices import chips
from vitjax.estimate import count, hlo

BANDWIDTH_SHARE = 0.85
PEAK_SHARE = 0.75
LAUNCH_SECONDS = 3e-6
ASSUMPTIONS = (
    f"an estimate, not a measurement: each kernel takes the longer of its bytes at "
    f"{BANDWIDTH_SHARE:.0%} of the bandwidth and its products at {PEAK_SHARE:.0%} of the "
    f"peak, on a GPU {LAUNCH_SECONDS * 1e6:g} us more; on a TPU, starting a kernel and "
    "moving data in its on-chip memory cost nothing, so small models take longer; "
    "collectives are added and hide behind nothing"
)
PHASES = ("forward", "backward", "recomputed", "other")


@dataclasses.dataclass(frozen=True)
class Part:
    """Kernels of one kind in a layer (of all blocks) and phase, on one device."""

    layer: str
    phase: str
    kernel: str  # kind and last operation: "cublas dot_general"
    kernels: int  # how many run in a step
    bytes: float
    flops: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one device takes for one step."""

    memory: float  # bytes: arguments, results and temporaries
    temporaries: float
    traffic: float  # bytes to and from the chip's memory
    flops: float
    kernels: int
    seconds: float
    collectives: dict[str, tuple[int, float]]  # kind -> (number, bytes)
    parts: tuple[Part, ...]  # most traffic first
    xla_bytes: float | None  # XLA's own count of bytes, where it gives one

    def fits(self, chip: chips.Chip) -> bool:
        """Return whether the chip has the memory."""
        return self.memory <= chip.usable


class TooLarge(ValueError):
    """XLA refused the program: it needs more memory than the chip has.

    `memory` is the number of bytes that it needs, or None if XLA did not say.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        found = re.search(r"Used ([\d.]+)([KMGT]?) of", text)
        scale = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
        self.memory = float(found[1]) * 1024 ** scale[found[2]] if found else None


def compile_for(lowered: Any, target: chips.Target) -> Any:
    """Compile a lowered program for a target. Raises TooLarge."""
    try:
        with uncached():
            return lowered.compile(compiler_options=chips.compiler_options(target))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise TooLarge(str(error)) from error
        raise


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Bypass JAX's cache on disk, which cannot read programs for absent chips."""
    config: Any = jax.config
    enabled = config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX asks once whether it is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def memory(compiled: Any) -> tuple[float, float]:
    """Return XLA's plan in bytes of a device: (all, temporaries alone)."""
    m = compiled.memory_analysis()
    size = m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes
    return float(size - m.alias_size_in_bytes), float(m.temp_size_in_bytes)


def estimate(compiled: Any, chip: chips.Chip, devices: int) -> Estimate:
    """Return what a program that was compiled for `devices` chips takes."""
    kernels = count.kernels(hlo.parse(compiled.as_text()))
    total, temporaries = memory(compiled)
    cost = compiled.cost_analysis() or {}
    collectives: dict[str, tuple[int, float]] = {}
    for kernel in kernels:
        for one in kernel.collectives:
            number, sent = collectives.get(one.kind, (0, 0.0))
            sent += kernel.times * one.bytes
            collectives[one.kind] = (number + kernel.times, sent)
    parts = _parts(kernels, chip, devices)
    return Estimate(
        memory=total,
        temporaries=temporaries,
        traffic=sum(part.bytes for part in parts),
        flops=sum(part.flops for part in parts),
        kernels=sum(part.kernels for part in parts),
        seconds=sum(part.seconds for part in parts),
        collectives=collectives,
        parts=parts,
        xla_bytes=cost.get("bytes accessed"),
    )


def seconds(one: count.Kernel, chip: chips.Chip, devices: int) -> float:
    """Return the estimated time of one run of a kernel."""
    moving = one.bytes / (BANDWIDTH_SHARE * chip.bandwidth)
    computing = sum(
        flops / (PEAK_SHARE * chip.peak(dtype, precision))
        for flops, dtype, precision in one.products
    )
    time = max(moving, computing) + (0.0 if chip.tpu else LAUNCH_SECONDS)
    for exchange in one.collectives:
        group = exchange.group or devices
        time += _passed(exchange.kind, group) * exchange.bytes / chip.link
    return time


def _passed(kind: str, group: int) -> float:
    """Return how often a device passes its operands on, in a ring of `group` devices."""
    if kind == "collective-permute":
        return 1.0
    if kind == "all-gather":
        return group - 1.0
    # An all-reduce is a reduce-scatter and an all-gather.
    return (2.0 if kind == "all-reduce" else 1.0) * (group - 1) / group


def _parts(
    kernels: Sequence[count.Kernel], chip: chips.Chip, devices: int
) -> tuple[Part, ...]:
    found: dict[tuple[str, str, str], Part] = {}
    for one in kernels:
        layer, phase = place(one.op_name)
        last = one.op_name.rpartition("/")[2]
        key = layer, phase, f"{one.kind} {last}".strip()
        before = found.get(key, Part(*key, 0, 0.0, 0.0, 0.0))
        found[key] = Part(
            *key,
            before.kernels + one.times,
            before.bytes + one.times * one.bytes,
            before.flops + one.times * one.flops,
            before.seconds + one.times * seconds(one, chip, devices),
        )
    return tuple(sorted(found.values(), key=lambda part: -part.bytes))


def place(op_name: str) -> tuple[str, str]:
    """Return (layer, phase) of an operation, from the path that JAX gives it.

    Blocks are counted together: encoderblock_3 is encoderblock. A fusion has the path
    of its last operation. What belongs to no layer is "step" (pixels, mixup, loss,
    optimizer, metrics), and copies of XLA's own are "copies".
    """
    if not op_name:
        return "copies", "other"
    phase = "other"
    if "rematted_computation" in op_name:
        phase = "recomputed"
    elif "transpose(" in op_name:
        phase = "backward"
    elif "jvp(" in op_name:
        phase = "forward"
    *path, _ = op_name.split("/")
    named = [p for p in path if "(" not in p and p not in _STRUCTURE]
    # Methods of a module (ViT._stem, encoderblock_3._branch) are no layers.
    named = [p for p in named if "._" not in p and "->" not in p]
    half = len(named) // 2
    if half and named[:half] == named[half:]:  # of a scope that was entered again
        named = named[:half]
    layer = "/".join(re.sub(r"(block)_\d+$", r"\1", p) for p in named)
    return (layer or "step"), phase


_STRUCTURE = {
    "shard_map", "while", "body", "cond", "closed_call", "checkpoint",
    "rematted_computation", "pjit", "branch_0_fun", "branch_1_fun", "scan",
    "eval_jaxpr",
}  # fmt: skip
