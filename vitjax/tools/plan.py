"""Estimate a run's cost before it starts: steps, operations, memory, hours.

`python -m vitjax.tools.plan --config configs/vit_s16_i1k.py --chip h100`
"""

import argparse
import contextlib
import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax import markdown
from vitjax.config.files import parse_with_overrides
from vitjax.files import or_without
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.config.experiment import Experiment
    from vitjax.devices import chips
    from vitjax.tools import plan_cost

# Only light imports here, so that --help is fast.
DESCRIPTION = f"""\
Compile the training step of a config without running it, and print what the run needs:
steps and epochs, parameters and operations, memory of each device, traffic to its memory,
collectives between devices, an estimate of the time, memory of the host, bytes a second
from the disk and to the devices, hours.

The data set may be missing: the number of examples comes from a table or --examples, the
shape of the images from the config's op string. With --json, the tables go to stderr.

--chip names the chips to compile for, which may be absent: h100, h100x8 (of one host),
v5e:2x4 (a TPU and its topology). It needs the extra aot_cuda or aot_tpu. Without --chip,
the step is compiled for the devices of this machine, or with --devices for simulated ones
on the CPU. A CPU's plan is an upper bound of the memory of a GPU or TPU, which fuse more.
A CPU honours remat_policy only inside a loop over the layers, so models with an argument
`scan` are planned with scan=True there.

{command.OVERRIDES}"""
EXAMPLES = (
    "--config configs/vit_s16_i1k.py --chip h100\n--config.model.dtype_mm=bfloat16",
    "--config configs/vit_i1k.py:variant=B/16 --chip v5e:2x4\n--accum_freq 1 2 --out plan/",
    "--config configs/quickstart.py --img_per_sec 2000\n--json > plan.json",
)
Row = tuple[str, str]
Figures = dict[str, Any]


def say(text: str = "") -> None:
    """Print a line immediately."""
    print(text, flush=True)


def table(rows: Sequence[Row]) -> None:
    """Print two columns in Markdown."""
    say(markdown.table(("", ""), rows) + "\n")


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


def facts(
    e: "Experiment",
    data: Any,
    built: Any,
    sizes: Mapping[str, int],
    where: "plan_cost.Place",
) -> Figures:
    """Compute figures without a compiler: sizes, parameters, FLOPs, host memory."""
    from input_pipeline.stream.memory import available
    from vitjax.step.flops import forward_flops
    from vitjax.tools import plan_cost
    from vitjax.trees import count

    images = sizes["total_steps"] * sizes["batch_size"]
    forward = forward_flops(built.model, built.shapes.params, built.image_shape)
    flops = 3 * forward  # the backward pass costs twice the forward pass
    batch_bytes = _bytes_of_example(data) * sizes["batch_size"]
    host, parts = plan_cost.host_bytes(e, data, batch_bytes)
    return {
        "compiled for": where.name,
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


def pace(data: Any, images: int, rate: float, source: str) -> Figures:
    """Return hours and MB/s of a run of `images` at `rate` images per second."""
    from_disk = 0.0 if data.in_memory else rate * data.bytes_per_example / 1e6
    return {
        "images a second": rate,
        "images a second from": source,
        "hours": images / rate / 3600,
        "MB/s from the disk": from_disk,
        "MB/s to the devices": rate * _bytes_of_example(data) / 1e6,
    }


def plan(
    e: "Experiment", flags: argparse.Namespace, target: "chips.Target | None"
) -> Figures:
    """Print the plan of an experiment and return its figures."""
    from vitjax.devices import chips
    from vitjax.records.rows import rate_table
    from vitjax.tools import plan_cost, plan_steps

    absent = target is not None and chips.missing(target) is None
    where = plan_cost.place(target if absent else None)
    # Before the data is read, and the program is built with the config's accum_freq.
    planned = list(plan_steps.choices(e, flags, where))
    data = outline(e, flags.examples, flags.image_size)
    spec, batch_size = data.element_spec, e.input["batch_size"]
    sizes = {"data_size": data.examples, "batch_size": batch_size}
    sizes["total_steps"] = steps = e.steps("total", **sizes)
    built = plan_cost.build(planned[0][0], spec, sizes, where)
    figures = facts(e, data, built, sizes, where)
    rates = rate_table(built.lr_fns, steps, e.optimizer["lr"]) if steps else {}
    if rates:
        figures["lr"] = {
            "most": float(rates["lr"].max()),
            "last": float(rates["lr"][-1]),
        }
    table([(k, _text(v)) for k, v in figures.items()])
    chip = target.chip if target is not None else where.chip
    limit = flags.memory_gib or (chip and chip.usable / chips.GIB)
    figures["memory GiB that may be used"] = limit
    figures["upper bound"] = where.on_cpu
    found, best = plan_steps.figures(planned, flags, where, limit, spec, sizes)
    figures |= found
    fits = found.get("suggested accum_freq", 1) is not None
    rate = flags.img_per_sec or (best.get("images/s") if fits else None)
    if rate:
        source = "--img_per_sec" if flags.img_per_sec else "the estimate above"
        speed = pace(data, steps * batch_size, rate, source)
        table([(k, _text(v)) for k, v in speed.items()])
        figures |= speed
    if flags.out is not None:
        pictures(flags, rates, best, where)
    return figures


def pictures(
    flags: argparse.Namespace,
    rates: Mapping[str, Any],
    best: Figures,
    where: "plan_cost.Place",
) -> None:
    """Draw lr.png, and traffic.png where the chip is known, into --out."""
    from vitjax.tools import plan_pictures

    flags.out.mkdir(parents=True, exist_ok=True)
    if rates:
        path = flags.out / "lr.png"
        with or_without(path.name):
            steps = len(rates["lr"])
            plan_pictures.draw_rates(path, rates, f"{flags.config}: {steps:,} steps")
            say(f"written: {path}")
    if "parts" in best:
        path = flags.out / "traffic.png"
        with or_without(path.name):
            plan_pictures.draw_traffic(path, best, f"{flags.config}, {where.name}")
            say(f"written: {path}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("plan", DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    command.add_config(parser)
    add("--chip", metavar="NAME",
        help="chips to compile for, absent ones too: h100, a100x8, v5e:2x4, v4:2x2x4, ... "
        "(default: the devices of this machine)")  # fmt: skip
    add("--devices", type=int, metavar="N",
        help="without --chip: number of devices, simulated on the CPU")  # fmt: skip
    add("--img_per_sec", type=float, metavar="RATE",
        help="images a second of all devices together, if known, for the hours "
        "(default: the estimate)")  # fmt: skip
    add("--memory_gib", type=float, metavar="GIB",
        help="memory of one device (default: 90 %% of a GPU's, all that XLA leaves of a "
        "TPU's)")  # fmt: skip
    add("--accum_freq", type=int, nargs="+", metavar="N",
        help="numbers of microbatches to compile (default: the config's, and its doubles "
        "until one fits)")  # fmt: skip
    add("--remat_policy", nargs="+", metavar="NAME",
        help="what the backward pass may keep, to compile: none, dots_saveable, "
        "nothing_saveable, ... (default: the config's)")  # fmt: skip
    add(
        "--eval", action="store_true", help="compile the forward pass of evaluation too"
    )
    add("--kernels", type=int, default=10, metavar="N",
        help="kernels to list, by layer, those with most traffic (default: 10)")  # fmt: skip
    add("--examples", type=int, metavar="N",
        help="number of training examples, if data set and table do not give it")  # fmt: skip
    command.add_image_size(parser, "the config's pp decodes nothing")
    command.add_out(parser, "DIR", "lr.png and traffic.png", "nowhere")
    command.add_json(parser)
    flags, overrides = parse_with_overrides(parser, argv)
    for name in (
        "devices", "img_per_sec", "memory_gib", "examples", "image_size",
    ):  # fmt: skip
        value = getattr(flags, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} must be above 0, got {value}")
    if any(n < 1 for n in flags.accum_freq or ()):
        parser.error("--accum_freq must be at least 1")
    if flags.kernels < 0:
        parser.error(f"--kernels must be at least 0, got {flags.kernels}")
    if flags.chip is not None and flags.devices is not None:
        parser.error(
            "--devices simulates CPUs: give the number in --chip, as in h100x8"
        )
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)
    return command.run(lambda: _work(flags, overrides))


def _work(flags: argparse.Namespace, overrides: Sequence[str]) -> None:
    from vitjax.devices import startup

    command.check_folder("--out", flags.out)
    target = _target(flags)
    startup.enable_compilation_cache()
    e = command.read_config(flags.config, overrides)
    tables_to = sys.stderr if flags.json else sys.stdout  # shows progress
    with _quiet(), contextlib.redirect_stdout(tables_to):
        figures = plan(e, flags, target)
    if flags.json:
        print(command.as_json(figures))
    # A step that is too large for a CPU's plan may fit a chip that fuses more.
    if figures.get("suggested accum_freq", 1) is None and not figures["upper bound"]:
        raise ValueError(figures["suggestion"])


def _target(flags: argparse.Namespace) -> "chips.Target | None":
    """Return the chips of --chip; prepare JAX for them, or for simulated CPUs.

    Without the extra for the chips, as many CPUs are simulated, after a sentence.
    """
    import jax

    from vitjax.devices import chips

    target, cpus = None, flags.devices
    if flags.chip is not None:
        target = chips.parse(flags.chip)
        chips.prepare()
        lacking = chips.missing(target)
        if lacking is not None:
            cpus = target.count
            print(
                f"note: {lacking}; the CPU's plan follows, an upper bound",
                file=sys.stderr,
            )
    if cpus is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpus)
    return target


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
