"""Measure the speed of the training step: `python -m vitjax.benchmark --model S/16`.

The step is the one of configs/vit_s16_i1k.py on synthetic images, which does not need
TensorFlow; with --data, that of any config on its own data.
"""

import argparse
import ast
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

import jax

from input_pipeline import home, places
from vitjax import commands, markdown, synthetic
from vitjax.config.experiment import Experiment
from vitjax.devices import chips, failures, sharding, startup
from vitjax.estimate import at_hand, compiled, tables
from vitjax.step.flops import forward_flops
from vitjax.trees import count

TRACED_STEPS = 5


def _trace(step: Callable[[int], Any], folder: Path) -> None:
    """Write a trace of some steps, with kernels and without Python's calls."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(folder, profiler_options=options):
        jax.block_until_ready([step(i) for i in range(TRACED_STEPS)])


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
    run = synthetic.build(e, mesh, batch_size=batch_size, image_size=image_size)
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
    run = synthetic.build(e, mesh, batch_size=batch_size, image_size=image_size)
    batches = synthetic.batches(batch_size, image_size, e.num_classes, mesh, 2)
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
    add("--data", type=places.local_text, metavar="CONFIG",
        help="time this config's own data, its step, and the loop of both, as "
        "vitjax.tools.profile does; --config.KEY=VALUE changes it")  # fmt: skip
    add("--model", nargs="+", default=["S/16"], help="variant of the ViT")
    add("--batch_size", type=int, default=1024, help="global batch size")
    add("--accum_freq", type=int, default=1, help="microbatches per step")
    add("--image_size", type=int, default=224, help="pixels a side")
    add("--steps", type=int, default=20, help="timed steps")
    add("--dtype_mm", default="float32", help="float32 or bfloat16 matrix products")
    add("--precision", nargs="+", choices=synthetic.PRECISIONS,
        help="sets the model's dtypes and the precision of float32 products, instead of "
        "--dtype_mm")  # fmt: skip
    add("--attn_impl", default="auto", help="auto, flax, xla or cudnn")
    add("--mlp_impl", default="xla",
        help="xla, or pallas: GELU's gradient within a product on NVIDIA")  # fmt: skip
    add("--remat_policy", default="none", help="what the backward pass recomputes")
    add("--scan", action="store_true", help="scan over the layers")
    add("--fsdp", action="store_true", help="split parameters and moments")
    add("--compiler_options", nargs="+", type=_option, default=[], metavar="NAME=VALUE",
        help="XLA's, as the config's key: xla_gpu_enable_triton_gemm=True")  # fmt: skip
    add(
        "--trace",
        type=places.local,
        metavar="DIR",
        help="also write a profile into DIR",
    )
    add(
        "--json",
        type=places.local,
        metavar="FILE",
        help="also write the figures to FILE",
    )
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
        dtypes, matmul = synthetic.PRECISIONS[precision]
    strategy = "fsdp(axis='data')" if flags.fsdp else "replicate"
    return synthetic.flagship(
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


def _of_data(
    parser: argparse.ArgumentParser, flags: argparse.Namespace, changes: list[str]
) -> int:
    """Time the loop of a config as vitjax.tools.profile does; return the exit status."""
    from vitjax.tools import profile  # it reads config files

    taken = {"data", "steps", "trace", "json"}
    other = [k for k, v in vars(flags).items() if v != parser.get_default(k)]
    if not taken.issuperset(other):
        parser.error(
            f"--data takes --steps, --trace, --json and --config.KEY=VALUE, got "
            f"--{min(set(other) - taken)}"
        )
    own = profile.parse_flags([f"--config={flags.data}", *changes])[1]
    return profile.run(flags.data, own, flags.steps, flags.trace, flags.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    flags, changes = parser.parse_known_args(home.expanded(argv))
    if flags.data is not None:
        return _of_data(parser, flags, changes)
    if changes:
        parser.error(f"unrecognized arguments: {' '.join(changes)}")
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
