"""Measure the speed of the training step: `python -m vitjax.benchmark --model S/16`.

The step is the one of configs/vit_s16_i1k.py (uint8 images, device_pp, mixup,
accumulation, metrics) on synthetic images. It does not need TensorFlow.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import home
from vitjax import commands, program
from vitjax.config.experiment import Experiment
from vitjax.devices import failures, sharding, startup
from vitjax.step import check_batch_size
from vitjax.step.flops import forward_flops
from vitjax.trees import count

# Dense bf16 peak in TFLOP/s by a part of device_kind, from the vendors' data sheets.
PEAK_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "V100": 125,
    "L40S": 362,
    "NVIDIA L4": 121,
    "RTX 4090": 165,
    "TPU v6": 918,
    "TPU v5p": 459,
    "TPU v5": 197,
    "TPU v4": 275,
}


def flagship(
    variant: str,
    *,
    accum_freq: int = 1,
    model: dict[str, Any] | None = None,
    sharding_strategy: Sequence[tuple[str, str]] = ((".*", "replicate"),),
) -> Experiment:
    """Return the experiment of configs/vit_s16_i1k.py, as far as its step needs it.

    A test compares the two programs.
    """
    return Experiment(
        input={},
        num_classes=1000,
        device_pp="value_range(-1, 1)|onehot(1000, key='label', key_result='labels')"
        "|keep('image', 'labels')",
        model={
            "variant": variant,
            "rep_size": True,
            "pool_type": "gap",
            "posemb": "sincos2d",
            **(model or {}),
        },
        loss="softmax_xent",
        mixup={"p": 0.2},
        accum_freq=accum_freq,
        sharding_strategy=sharding_strategy,
        optimizer={
            "optax_name": "scale_by_adam",
            "optax": {"mu_dtype": "bfloat16"},
            "grad_clip_norm": 1.0,
            "lr": 0.001,
            "wd": 0.0001,
            "schedule": {"warmup_steps": 10_000, "decay_type": "cosine"},
        },
    )


def synthetic_batches(
    batch_size: int, image_size: int, num_classes: int, mesh: jax.sharding.Mesh, n: int
) -> list[dict[str, jax.Array]]:
    """Make `n` batches of random uint8 images and int32 labels, split over devices."""
    rng = np.random.default_rng(0)
    local = batch_size // jax.process_count()
    home = sharding.batch_sharding(mesh)
    shape = (local, image_size, image_size, 3)
    return [
        {
            name: jax.make_array_from_process_local_data(home, value)
            for name, value in {
                "image": rng.integers(0, 256, shape, np.uint8),
                "label": rng.integers(0, num_classes, local, np.int32),
            }.items()
        }
        for _ in range(n)
    ]


def peak_tflops(device: Any) -> tuple[float, str]:
    """Return (peak TFLOP/s of one device, source of the figure)."""
    for kind, peak in PEAK_TFLOPS.items():
        if kind.lower() in device.device_kind.lower():
            return float(peak), f"data sheet, {kind}, dense bf16"
    size = 2048
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    start = time.perf_counter()
    for _ in range(5):
        product(a, a).block_until_ready()
    seconds = (time.perf_counter() - start) / 5
    return (
        2 * size**3 / seconds / 1e12 / _sharing(device),
        f"measured here: float32 matrix product of {size} x {size}",
    )


def _sharing(device: Any) -> int:
    """Return how many devices share the measured peak.

    The CPU "devices" of one process share its cores; other devices share nothing.
    """
    return jax.local_device_count() if device.platform == "cpu" else 1


def _memory(compiled: Any) -> tuple[float, str]:
    """Return (peak GiB per device, source of the figure)."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30, "allocator's peak"
    m = compiled.memory_analysis()
    size = m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes
    return (size - m.alias_size_in_bytes) / 2**30, "XLA's plan"


def measure(e: Experiment, *, batch_size: int, image_size: int, steps: int) -> dict:
    """Compile and time the step of `e`, and return the figures that `main` prints."""
    mesh = sharding.make_mesh(e.mesh)
    check_batch_size(batch_size, mesh, e.accum_freq)
    batches = synthetic_batches(batch_size, image_size, e.num_classes, mesh, 2)
    spec = {name: (x.shape[1:], x.dtype) for name, x in batches[0].items()}
    run = program.build(
        e,
        mesh,
        element_spec=spec,
        batch_size=batch_size,
        total_steps=112_603,
        data_size=1_281_167,
    )
    start = time.perf_counter()
    state = run.init()
    key = run.key
    compiled = run.train_step.lower(state, batches[0], key).compile()
    for i in range(3):
        state, out = compiled(state, batches[i % 2], key)
        jax.block_until_ready(out)
    compile_seconds = time.perf_counter() - start
    # As in training, the host waits only for the last step of a block.
    block = max(1, steps // 5)
    seconds, out = [], None
    for _ in range(0, steps, block):
        start = time.perf_counter()
        for i in range(block):
            state, out = compiled(state, batches[i % 2], key)
        jax.block_until_ready(out)
        seconds.append((time.perf_counter() - start) / block)
    step_seconds = statistics.median(seconds)

    params = run.shapes.params
    # The backward pass takes twice the operations of the forward pass.
    shape = (image_size, image_size, 3)
    flops = 3 * forward_flops(run.model, params, shape) * batch_size
    device = jax.local_devices()[0]
    peak, peak_source = peak_tflops(device)
    tflops = flops / step_seconds / 1e12 / mesh.size
    memory, memory_source = _memory(compiled)
    return {
        "device": startup.describe(),
        "parameters": count(params),
        "batch_size": batch_size,
        "accum_freq": e.accum_freq,
        "compile and warm-up s": compile_seconds,
        "ms/step": 1000 * step_seconds,
        "img/s per device": batch_size / step_seconds / mesh.size,
        "model TFLOP/s per device": tflops,
        "MFU": tflops / peak,
        "assumed peak TFLOP/s": peak,
        "peak from": peak_source,
        "peak memory GiB per device": memory,
        "memory from": memory_source,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog=commands.called("vitjax.benchmark"),
        description="Time the trainer's own step on synthetic images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", default="S/16", help="variant of the ViT")
    add("--batch_size", type=int, default=1024, help="global batch size")
    add("--accum_freq", type=int, default=1, help="microbatches per step")
    add("--image_size", type=int, default=224, help="pixels a side")
    add("--steps", type=int, default=20, help="timed steps")
    add("--dtype_mm", default="float32", help="float32 or bfloat16 matrix products")
    add("--attn_impl", default="flax", help="flax, xla or cudnn")
    add(
        "--remat_policy",
        default="none",
        help="policy for what the backward pass recomputes",
    )
    add("--scan", action="store_true", help="scan over the layers")
    add("--fsdp", action="store_true", help="split parameters and moments")
    add("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    flags = parser.parse_args(home.expanded(argv))
    if flags.steps < 1:
        parser.error(f"--steps must be at least 1, got {flags.steps}")
    strategy = "fsdp(axis='data')" if flags.fsdp else "replicate"
    try:
        if flags.json:
            flags.json.touch()  # fail before the run, not after it
        startup.enable_compilation_cache()
        figures = measure(
            flagship(
                flags.model,
                accum_freq=flags.accum_freq,
                sharding_strategy=((".*", strategy),),
                model={
                    "dtype_mm": flags.dtype_mm,
                    "attn_impl": flags.attn_impl,
                    "remat_policy": flags.remat_policy,
                    "scan": flags.scan,
                },
            ),
            batch_size=flags.batch_size,
            image_size=flags.image_size,
            steps=flags.steps,
        )
    except Exception as error:
        less = "use --accum_freq, --remat_policy or --dtype_mm bfloat16 to save memory"
        sentence = failures.sentence(error, less)
        if sentence is None or os.environ.get("VITJAX_TRACEBACK"):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    figures = {"model": flags.model, "dtype_mm": flags.dtype_mm, **figures}
    width = max(map(len, figures))
    for name, value in figures.items():
        text = f"{value:,.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}  {text}")
    text = json.dumps(figures)
    print(text)
    if flags.json:
        flags.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
