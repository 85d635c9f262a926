"""The peak and the memory of the devices at hand."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.devices import chips
from vitjax.estimate import compiled as compiled_lib


def peak_tflops(
    device: Any, dtype: str, matmul: str | None
) -> tuple[float | None, str]:
    """Return (peak TFLOP/s of one device, source) for products of `dtype`.

    `matmul` is JAX's precision of float32 products, None for its default. The peak of a
    CPU is measured, and that of another device that is in no table is None.
    """
    chip = chips.of_kind(device.device_kind)
    if chip is not None:
        precision = matmul or "default"
        peak = chip.peak(dtype, precision) / 1e12
        return peak, f"data sheet, {chip.name}, {dtype} at precision {precision}"
    if device.platform != "cpu":
        return None, f"{device.device_kind} is not in the table of chips"
    size = 2048
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    start = time.perf_counter()
    for _ in range(5):
        product(a, a).block_until_ready()
    seconds = (time.perf_counter() - start) / 5
    return (
        2 * size**3 / seconds / 1e12 / jax.local_device_count(),  # they share its cores
        f"measured here: float32 matrix product of {size} x {size}",
    )


def memory(compiled: Any) -> tuple[float, float, str]:
    """Return GiB per device: (peak, XLA's plan), and the source of the peak."""
    planned = compiled_lib.memory(compiled)[0] / 2**30
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30, planned, "allocator's peak"
    return planned, planned, "XLA's plan"
