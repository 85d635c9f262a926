"""Measure the speed of the training step: `python -m vitjax.benchmark --model S/16`.

The step is the one of configs/vit_s16_i1k.py (uint8 images, device_pp, mixup,
accumulation, metrics) on synthetic images. It does not need TensorFlow.
"""

import argparse
import ast
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

import jax
import numpy as np

from input_pipeline import home
from vitjax import commands, markdown, program
from vitjax.config.experiment import Experiment
from vitjax.devices import chips, failures, sharding, startup
from vitjax.estimate import at_hand, compiled, tables
from vitjax.step.flops import forward_flops
from vitjax.trees import count

# --precision: arguments of the model, and the config's matmul_precision. They are those
# of configs/vit_s16_i1k.py, which a machine without ml_collections cannot read.
PRECISIONS: dict[str, tuple[dict[str, Any], str | None]] = {
    "float32": ({}, None),
    "tf32": ({}, "high"),
    "bfloat16": ({"dtype_mm": "bfloat16"}, None),
    "bfloat16_all": (
        {"dtype_mm": "bfloat16", "residual_dtype": "bfloat16"},
        None,
    ),
}
TRACED_STEPS = 5


def flagship(
    variant: str,
    *,
    accum_freq: int = 1,
    model: dict[str, Any] | None = None,
    matmul_precision: str | None = None,
    sharding_strategy: Sequence[tuple[str, str]] = ((".*", "replicate"),),
    compiler_options: Mapping[str, Any] | None = None,
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
        matmul_precision=matmul_precision,
        sharding_strategy=sharding_strategy,
        compiler_options=compiler_options,
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


def _trace(step: Callable[[int], Any], folder: Path) -> None:
    """Write a trace of some steps, with kernels and without Python's calls."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(folder, profiler_options=options):
        jax.block_until_ready([step(i) for i in range(TRACED_STEPS)])


def build(
    e: Experiment, mesh: jax.sharding.Mesh, *, batch_size: int, image_size: int
) -> program.Program:
    """Build the program of `e` for `synthetic_batches`, in a run as long as ImageNet's.

    The devices of `mesh` may be absent.
    """
    spec = {
        "image": ((image_size, image_size, 3), np.dtype(np.uint8)),
        "label": ((), np.dtype(np.int32)),
    }
    return program.build(
        e,
        mesh,
        element_spec=spec,
        batch_size=batch_size,
        total_steps=112_603,
        data_size=1_281_167,
    )


def compile_only(
    e: Experiment,
    target: chips.Target,
    devices: Sequence[Any],
    *,
    batch_size: int,
    image_size: int,
) -> dict[str, Any]:
    """Compile the step of `e` for absent chips; return figures of `estimate.tables`.

    `devices` are those of `chips.devices(target)`.
    """
    mesh = sharding.make_mesh(e.mesh, devices)
    run = build(e, mesh, batch_size=batch_size, image_size=image_size)
    try:
        found = compiled.compile_for(run.lower(), target)
    except compiled.TooLarge as error:
        return tables.too_large(error.memory, target.chip)
    estimate = compiled.estimate(found, target.chip, target.count)
    return tables.figures(estimate, target.chip, batch_size)


def measure(
    e: Experiment,
    *,
    batch_size: int,
    image_size: int,
    steps: int,
    trace: Path | None = None,
) -> dict:
    """Compile and time the step of `e`, and return the figures that `main` prints.

    With `trace`, a profile of `TRACED_STEPS` further steps is written into that folder.
    """
    mesh = sharding.make_mesh(e.mesh)
    run = build(e, mesh, batch_size=batch_size, image_size=image_size)
    batches = synthetic_batches(batch_size, image_size, e.num_classes, mesh, 2)
    start = time.perf_counter()
    state = run.init()
    key = run.key
    compiled = run.train_step.lower(state, batches[0], key).compile()

    def step(i: int) -> Any:
        nonlocal state
        state, out = compiled(state, batches[i % 2], key)
        return out

    for i in range(3):
        jax.block_until_ready(step(i))
    compile_seconds = time.perf_counter() - start
    # As in training, the host waits only for the last step of a block.
    block = max(1, steps // 5)
    seconds, out = [], None
    for _ in range(0, steps, block):
        start = time.perf_counter()
        for i in range(block):
            out = step(i)
        jax.block_until_ready(out)
        seconds.append((time.perf_counter() - start) / block)
    step_seconds = statistics.median(seconds)
    peak_memory, planned_memory, memory_source = at_hand.memory(compiled)
    if trace is not None:
        _trace(step, trace)

    params = run.shapes.params
    # The backward pass takes twice the operations of the forward pass.
    shape = (image_size, image_size, 3)
    flops = 3 * forward_flops(run.model, params, shape) * batch_size
    device = jax.local_devices()[0]
    dtype = e.model.get("dtype_mm", "float32")
    peak, peak_source = at_hand.peak_tflops(device, dtype, run.matmul_precision)
    tflops = flops / step_seconds / 1e12 / mesh.size
    return {
        "device": startup.describe(),
        "parameters": count(params),
        "batch_size": batch_size,
        "accum_freq": e.accum_freq,
        "attn_impl": run.model.attn_impl,
        "mlp_impl": run.model.mlp_impl,
        "compile and warm-up s": compile_seconds,
        "ms/step": 1000 * step_seconds,
        "img/s per device": batch_size / step_seconds / mesh.size,
        "model TFLOP/s per device": tflops,
        "MFU": None if peak is None else tflops / peak,
        "assumed peak TFLOP/s": peak,
        "peak from": peak_source,
        "peak memory GiB per device": peak_memory,
        "memory from": memory_source,
        "planned memory GiB per device": planned_memory,
        "traced steps": 0 if trace is None else TRACED_STEPS,
    }


def _option(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE of --compiler_options."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=commands.called("vitjax.benchmark"),
        description="Time the trainer's own step on synthetic images; or compile it for "
        "chips that are absent, and estimate what it takes there.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", nargs="+", default=["S/16"], help="variant of the ViT")
    add("--batch_size", type=int, default=1024, help="global batch size")
    add("--accum_freq", type=int, default=1, help="microbatches per step")
    add("--image_size", type=int, default=224, help="pixels a side")
    add("--steps", type=int, default=20, help="timed steps")
    add("--dtype_mm", default="float32", help="float32 or bfloat16 matrix products")
    add("--precision", nargs="+", choices=PRECISIONS,
        help="sets the model's dtypes and the precision of float32 products, instead of "
        "--dtype_mm")  # fmt: skip
    add("--attn_impl", default="auto",
        help="auto (cudnn on NVIDIA in half precision, else flax), flax, xla or cudnn")  # fmt: skip
    add("--mlp_impl", default="xla",
        help="xla, or pallas: GELU's gradient within a product on NVIDIA")  # fmt: skip
    add("--remat_policy", default="none",
        help="policy for what the backward pass recomputes")  # fmt: skip
    add("--scan", action="store_true", help="scan over the layers")
    add("--fsdp", action="store_true", help="split parameters and moments")
    add("--compiler_options", nargs="+", type=_option, default=[], metavar="NAME=VALUE",
        help="XLA's, as the config's key: xla_gpu_enable_triton_gemm=True")  # fmt: skip
    add("--trace", type=Path, metavar="DIR", help="also write a profile into DIR")
    add("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    add("--compile_only", action="store_true",
        help="compile for each --chip, --model and --precision, and time nothing")  # fmt: skip
    add("--chip", nargs="+", metavar="NAME",
        help="with --compile_only: h100, a100x8, v5e:2x4, ...; needs the extra aot_cuda "
        "or aot_tpu")  # fmt: skip
    add("--kernels", type=int, default=10, help="kernels that --compile_only lists")
    return parser


def _case(flags: argparse.Namespace, variant: str, precision: str | None) -> Experiment:
    """Return the experiment of the flags."""
    dtypes, matmul = {"dtype_mm": flags.dtype_mm}, None
    if precision is not None:
        dtypes, matmul = PRECISIONS[precision]
    strategy = "fsdp(axis='data')" if flags.fsdp else "replicate"
    return flagship(
        variant,
        accum_freq=flags.accum_freq,
        matmul_precision=matmul,
        sharding_strategy=((".*", strategy),),
        compiler_options=dict(flags.compiler_options),
        model={
            **dtypes,
            "attn_impl": flags.attn_impl,
            "mlp_impl": flags.mlp_impl,
            "remat_policy": flags.remat_policy,
            "scan": flags.scan,
        },
    )


def _measured(flags: argparse.Namespace) -> dict[str, Any]:
    """Time the one case of the flags, and print and return its figures."""
    [variant] = flags.model
    [precision] = flags.precision or [None]
    e = _case(flags, variant, precision)
    startup.enable_compilation_cache()
    figures = measure(
        e,
        batch_size=flags.batch_size,
        image_size=flags.image_size,
        steps=flags.steps,
        trace=flags.trace,
    )
    figures = {
        "model": variant,
        "dtype_mm": e.model.get("dtype_mm", "float32"),
        "precision": precision or flags.dtype_mm,
        **figures,
    }
    width = max(map(len, figures))
    for name, value in figures.items():
        value = "-" if value is None else value
        text = f"{value:,.4g}" if isinstance(value, float) else str(value)
        print(f"{name:<{width}}  {text}")
    print(json.dumps(figures))
    return figures


def _compiled(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Compile every case of the flags, and print and return its figures."""
    targets = [chips.parse(name) for name in flags.chip]
    chips.prepare()
    for target in targets:
        chips.check_attention(target, flags.attn_impl)
    devices = {target: chips.devices(target) for target in targets}
    print("\n".join(markdown.heading(("chip", "model", "precision", *tables.HEAD))))
    rows = []
    cases: Any = itertools.product(devices, flags.model, flags.precision or [None])
    for target, variant, precision in cases:
        row = compile_only(
            _case(flags, variant, precision),
            target,
            devices[target],
            batch_size=flags.batch_size,
            image_size=flags.image_size,
        )
        shown = precision or flags.dtype_mm
        print(markdown.line((target, variant, shown, *tables.cells(row))), flush=True)
        names = {"chip": str(target), "model": variant, "precision": shown}
        rows.append({**names, "batch_size": flags.batch_size, **row})
    print(f"\n{tables.LEGEND}\n\nThe time is {compiled.ASSUMPTIONS}.")
    if len(rows) == 1 and "parts" in rows[0] and flags.kernels > 0:
        print("\nThe kernels that move most, by layer:\n")
        print(markdown.table(tables.PARTS, tables.parts(rows[0], flags.kernels)))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    flags = parser.parse_args(home.expanded(argv))
    if flags.steps < 1:
        parser.error(f"--steps must be at least 1, got {flags.steps}")
    if flags.compile_only != (flags.chip is not None):
        parser.error(
            "--compile_only and --chip go together: an absent chip times nothing"
        )
    if not flags.compile_only and max(len(flags.model), len(flags.precision or ())) > 1:
        parser.error("several --model or --precision need --compile_only")
    try:
        if flags.json:
            flags.json.touch()  # fail before the run, not after it
        figures = _compiled(flags) if flags.compile_only else _measured(flags)
    except Exception as error:
        less = "use --accum_freq, --remat_policy or --dtype_mm bfloat16 to save memory"
        sentence = failures.sentence(error, less)
        if sentence is None or os.environ.get("VITJAX_TRACEBACK"):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    if flags.json:
        flags.json.write_text(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
