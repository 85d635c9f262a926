"""Estimate a run's cost before it starts: steps, operations, memory, hours.

`python -m vitjax.tools.plan --config configs/vit_s16_i1k.py --accelerator H100`
"""

import argparse
import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax.config.files import parse_with_overrides
from vitjax.files import or_without, write_picture
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.config.experiment import Experiment

# Only light imports here, so that --help is fast.
DESCRIPTION = f"""\
Compile the training step of a config without running it, and print what the run needs:
steps and epochs, parameters and operations, memory of each device for several accum_freq
and remat_policy, memory of the host, bytes a second from the disk and to the devices,
hours.

The data set may be missing: the number of examples comes from a table or --examples, the
shape of the images from the config's op string. With --json, the tables go to stderr.

The step is compiled for the devices of this machine, or with --devices for simulated ones
on the CPU. XLA's plan for a CPU is an upper estimate for a GPU, which fuses more. A CPU
honours remat_policy only inside a loop over the layers, so models with an argument `scan`
are planned with scan=True there. "kept" is what autodiff
keeps for the backward pass of one microbatch before the compiler fuses anything, on any
device.

{command.OVERRIDES}"""
EXAMPLES = (
    "--config configs/vit_s16_i1k.py --accelerator H100",
    "--config configs/vit_i1k.py:variant=B/16\n--accelerator A100 --devices 8 --out plan/",
    "--config configs/quickstart.py --img_per_sec 2000\n--json > plan.json",
)
ACCUM_FREQS = (1, 2, 4, 8)
REMAT_POLICIES = ("none", "dots_saveable", "nothing_saveable")
Row = tuple[str, str]


def say(text: str = "") -> None:
    """Print a line immediately."""
    print(text, flush=True)


def table(rows: Sequence[Row]) -> None:
    """Print two columns in Markdown."""
    say(command.table(("", ""), rows) + "\n")


def outline(e: "Experiment", examples: int | None, image_size: int | None) -> Any:
    """Return a `look.outline.Outline` of the training stream, even without its data."""
    from input_pipeline import pipeline, sources
    from input_pipeline.look import outline as outline_lib
    from vitjax.config import arguments

    try:
        stream, _ = arguments.call(
            "input", pipeline.make_train, e.input, seed=0, start_step=0
        )
    except sources.DataNotFound:
        given = {k: e.input[k] for k in ("data", "pp", "batch_size") if k in e.input}
        return outline_lib.guess(**given, examples=examples, image_size=image_size)
    found = outline_lib.of_stream(stream, e.input["data"].get("kind", "tfds"))
    return dataclasses.replace(found, examples=examples or found.examples)


def choices(e: "Experiment", flags: argparse.Namespace, devices: int) -> list[Any]:
    """Return the experiment with each requested accum_freq and remat_policy."""
    import jax

    model, batch_size = dict(e.model), e.input["batch_size"]
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu and model.get("attn_impl") == "cudnn":
        print("note: attn_impl='cudnn' is planned as 'xla' on a CPU", file=sys.stderr)
        model["attn_impl"] = "xla"
    remats: Sequence[Any] = [None]
    if e.model_name == "vit":
        own = model.get("remat_policy")
        remats = flags.remat_policy or list(
            dict.fromkeys(filter(None, [own, *REMAT_POLICIES]))
        )
        # Rules that name single layers match nothing in the stacked layers of a scan.
        by_name = {"lr_mults", "wd_mults"} & e.optimizer.keys()
        if on_cpu and not by_name:
            model["scan"] = True
    asked = flags.accum_freq or sorted({e.accum_freq, *ACCUM_FREQS})
    accums = [n for n in asked if batch_size % (n * devices) == 0]
    if not accums:
        raise ValueError(
            f"no accum_freq of {', '.join(map(str, asked))} divides a batch of "
            f"{batch_size} on {devices} device(s): give another with --accum_freq"
        )
    return [
        dataclasses.replace(
            e,
            accum_freq=accum,
            model=model if remat is None else {**model, "remat_policy": remat},
        )
        for remat in remats
        for accum in accums
    ]


def memory(
    planned: Sequence[Any], spec: Mapping[str, Any], sizes: Mapping[str, int]
) -> list[Any]:
    """Return `plan_cost.DeviceMemory` of each; print its table row when it is known."""
    from vitjax.tools import plan_cost

    say("| accum_freq | remat_policy | state GiB | kept GiB | XLA's plan GiB |")
    say("|---|---|---|---|---|")
    rows = []
    for e in planned:
        row = plan_cost.device_memory(e, spec, sizes)
        rows.append(row)
        say(
            f"| {row.accum_freq} | {row.remat_policy or '-'} | {row.state:.3f} | "
            f"{row.kept:.3f} | {row.plan:.3f} |"
        )
    say()
    return rows


def suggestion(rows: Sequence[Any], limit: float) -> tuple[str, Any]:
    """Return (a sentence, the first row that fits `limit` GiB, or None).

    The rows are in order of preference, fewest recomputations first: by remat_policy,
    then by accum_freq.
    """
    best = next((row for row in rows if row.plan <= limit), None)
    if best is None:
        least = min(row.plan for row in rows)
        return (
            f"no plan fits {limit:.1f} GiB (the smallest takes {least:.1f}): try a "
            "larger --accum_freq, more --devices, or dtype_mm='bfloat16'",
            None,
        )
    remat = f" with remat_policy={best.remat_policy!r}" if best.remat_policy else ""
    return (
        f"accum_freq={best.accum_freq}{remat} fits {limit:.1f} GiB "
        f"({best.plan:.1f} planned)",
        best,
    )


def draw_rates(path: Path, rates: Mapping[str, Any], title: str) -> None:
    """Draw the learning rate of every step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in rates.items():
        if not name.startswith("global_"):
            axis.plot(range(1, len(values) + 1), values, label=name)
    axis.set(xlabel="step", ylabel="learning rate", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    write_picture(path, figure, dpi=110)


def speed(flags: argparse.Namespace, flops: float, devices: int) -> tuple[float, str]:
    """Return (images per second, source of the figure); (nan, "") if unknown."""
    from vitjax.devices.chips import CHIPS

    if flags.img_per_sec is not None:
        return flags.img_per_sec, "--img_per_sec"
    if flags.accelerator is None:
        return float("nan"), ""
    peak = CHIPS[flags.accelerator.lower()].bfloat16 / 1e12
    rate = devices * peak * 1e12 * flags.mfu / flops
    name = f"{devices} x {flags.accelerator}"
    return rate, f"{name} at an MFU of {flags.mfu:g} of its {peak} bfloat16 TFLOP/s"


def facts(
    e: "Experiment", data: Any, built: Any, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Compute figures without a compiler: sizes, parameters, FLOPs, host memory."""
    from input_pipeline.stream.memory import available
    from vitjax.devices import startup
    from vitjax.step.flops import forward_flops
    from vitjax.tools import plan_cost
    from vitjax.trees import count

    images = sizes["total_steps"] * sizes["batch_size"]
    forward = forward_flops(built.model, built.shapes.params, built.image_shape)
    flops = 3 * forward  # the backward pass costs twice the forward pass
    batch_bytes = _bytes_of_example(data) * sizes["batch_size"]
    host, parts = plan_cost.host_bytes(e, data, batch_bytes)
    return {
        "compiled for": startup.describe(),
        "examples": data.examples,
        "examples from": data.source,
        "total_steps": sizes["total_steps"],
        "epochs": images / data.examples,
        "batch_size": sizes["batch_size"],
        "image_shape": list(built.image_shape),
        "parameters": count(built.shapes.params),
        "trainable parameters": built.trainable,
        "FLOPs per image": flops,
        "FLOPs from": "3 x the forward pass's products, 2 a multiply-add",
        "FLOPs per run": flops * images,
        "host GB": host / 1e9,
        "host GB free here": available() / 1e9,
        "host GB of": {k: v / 1e9 for k, v in parts.items()},
    }


def _bytes_of_example(data: Any) -> int:
    """Return the bytes of one example as transferred to the devices."""
    spec = data.element_spec.values()
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in spec)


def pace(data: Any, images: int, rate: float, source: str) -> dict[str, Any]:
    """Return hours and MB/s of a run of `images` at `rate` images per second."""
    from_disk = 0.0 if data.in_memory else rate * data.bytes_per_example / 1e6
    return {
        "images a second": rate,
        "images a second from": source,
        "hours": images / rate / 3600,
        "MB/s from the disk": from_disk,
        "MB/s to the devices": rate * _bytes_of_example(data) / 1e6,
    }


def plan(e: "Experiment", flags: argparse.Namespace) -> dict[str, Any]:
    """Print the plan of an experiment and return its figures."""
    import jax

    from vitjax.records.rows import rate_table
    from vitjax.tools import plan_cost

    data = outline(e, flags.examples, flags.image_size)
    spec, batch_size = data.element_spec, e.input["batch_size"]
    sizes = {"data_size": data.examples, "batch_size": batch_size}
    sizes["total_steps"] = steps = e.steps("total", **sizes)
    built = plan_cost.build(e, spec, sizes)
    figures = facts(e, data, built, sizes)
    rates = rate_table(built.lr_fns, steps, e.optimizer["lr"]) if steps else {}
    if rates:
        figures["lr"] = {
            "most": float(rates["lr"].max()),
            "last": float(rates["lr"][-1]),
        }
    table([(k, _text(v)) for k, v in figures.items()])
    devices = jax.device_count()
    rate, source = speed(flags, figures["FLOPs per image"], devices)
    if not math.isnan(rate):
        found = pace(data, steps * batch_size, rate, source)
        table([(k, _text(v)) for k, v in found.items()])
        figures |= found
    planned = choices(e, flags, devices)
    looped = ", scan=True" if planned[0].model.get("scan") else ""
    say(f"Memory of one device, for {jax.default_backend()}{looped}:\n")
    rows = memory(planned, spec, sizes)
    figures["device memory GiB"] = [dataclasses.asdict(row) for row in rows]
    limit = _limit(flags)
    if limit is not None:
        text, best = suggestion(rows, limit)
        say(text)
        figures["suggested accum_freq"] = best and best.accum_freq
        figures["suggested remat_policy"] = best and best.remat_policy
    if flags.out is not None and rates:
        flags.out.mkdir(parents=True, exist_ok=True)
        path = flags.out / "lr.png"
        with or_without("lr.png"):
            draw_rates(path, rates, f"{flags.config}: {steps:,} steps")
            say(f"written: {path}")
    return figures


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _limit(flags: argparse.Namespace) -> float | None:
    """Return the GiB of one device that a step may use; None if unknown."""
    from vitjax.devices.chips import CHIPS, GIB

    if flags.memory_gib is not None:
        return flags.memory_gib
    if flags.accelerator is None:
        return None
    return CHIPS[flags.accelerator.lower()].usable / GIB


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("plan", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    command.add_config(parser)
    add("--accelerator", metavar="NAME",
        help="for hours and memory: H100, A100, v4, ... (default: none)")  # fmt: skip
    add("--devices", type=int, metavar="N",
        help="number of devices, simulated on the CPU (default: those of this machine)")  # fmt: skip
    add("--mfu", type=float, default=0.4, metavar="SHARE",
        help="share of the accelerator's peak that the run will reach (default: 0.4)")  # fmt: skip
    add("--img_per_sec", type=float, metavar="RATE",
        help="images a second of all devices together, if known; replaces --mfu")  # fmt: skip
    add("--memory_gib", type=float, metavar="GIB",
        help="memory of one device (default: 90 %% of the accelerator's)")  # fmt: skip
    add("--accum_freq", type=int, nargs="+", metavar="N",
        help="numbers of microbatches to plan for (default: 1 2 4 8, and the config's)")  # fmt: skip
    add("--remat_policy", nargs="+", metavar="NAME",
        help="what the backward pass may keep, to plan for (default: the config's, "
        f"{', '.join(REMAT_POLICIES)})")  # fmt: skip
    add("--examples", type=int, metavar="N",
        help="number of training examples, if data set and table do not give it")  # fmt: skip
    command.add_image_size(parser, "the config's pp decodes nothing")
    command.add_out(parser, "DIR", "lr.png", "nowhere")
    command.add_json(parser)
    flags, overrides = parse_with_overrides(parser, argv)
    for name in (
        "devices", "img_per_sec", "memory_gib", "examples", "image_size", "mfu",
    ):  # fmt: skip
        value = getattr(flags, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be above 0, got {value}")
    if any(n < 1 for n in flags.accum_freq or ()):
        parser.error("--accum_freq must be at least 1")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags, overrides))


def _work(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    import jax

    if flags.devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", flags.devices)
    from vitjax.config.arguments import lookup
    from vitjax.devices import startup
    from vitjax.devices.chips import CHIPS

    if flags.accelerator is not None:
        lookup(CHIPS, flags.accelerator.lower(), "accelerator")
    command.check_folder("--out", flags.out)
    startup.enable_compilation_cache()
    e = command.read_config(flags.config, overrides)
    if not flags.json:
        with _quiet():
            plan(e, flags)
        return
    with (
        _quiet(),
        contextlib.redirect_stdout(sys.stderr),
    ):  # shows progress
        figures = plan(e, flags)
    print(command.as_json(figures))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings that only matter in training."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


if __name__ == "__main__":
    sys.exit(main())
