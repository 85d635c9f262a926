"""Measure the time of each part of a training step.

`python -m vitjax.tools.profile --config configs/quickstart.py`
"""

import argparse
import contextlib
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    from vitjax.devices import failures

    failures.leave_on_interrupt()  # the imports take seconds

from vitjax import markdown
from vitjax.config.files import parse_with_overrides
from vitjax.tools import command

if TYPE_CHECKING:
    from vitjax.config.experiment import Experiment

# Only light imports here, so that --help is fast.
DESCRIPTION = f"""\
Train a config for some steps on its own data, and print what a step waits for. Each part
is timed alone, then all together as in vitjax.train:

  data      the host makes a batch: reading, decoding, augmentation
  transfer  a batch goes to the devices
  compute   the step on a batch that is on the devices
  loop      all of it, by the loop of a run; the parts overlap if they can

The run itself is not kept. A trace of further steps is written into --out, for
https://ui.perfetto.dev or TensorBoard's profiler.

{command.OVERRIDES}"""
EXAMPLES = (
    "--config configs/quickstart.py",
    "--config configs/vit_s16_i1k.py --steps 50 --out trace",
    "--config configs/vit_s16_i1k.py\n--config.input.num_parallel_calls=32",
)
WARM_UP = 3  # steps
HIDDEN = 0.95  # a loop that reaches this share of its slowest part hides the others
ADVICE = {
    "data": "the host makes batches too slowly: more CPU cores, a faster disk, cheaper "
    "ops in input.pp, or input.num_parallel_calls",
    "transfer": "the way to the devices is too slow: uint8 images (value_range in "
    "device_pp, not in input.pp), fewer features in keep",
    "compute": "the devices are busy, as they should be: dtype_mm, attn_impl and "
    "remat_policy may make it faster",
}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per step: each part alone, the loop, and its wait for batches."""

    data: float
    transfer: float
    compute: float
    loop: float
    wait: float

    @property
    def bound(self) -> str:
        """The part that takes longest on its own."""
        parts = {name: getattr(self, name) for name in ADVICE}
        return max(parts, key=lambda name: parts[name])

    @property
    def reached(self) -> float:
        """The speed of the loop as a share of its slowest part alone."""
        return getattr(self, self.bound) / self.loop

    def sentence(self) -> str:
        """Return a sentence on what bounds the run, and by how much."""
        longest = getattr(self, self.bound)
        others = [getattr(self, name) for name in ADVICE if name != self.bound]
        text = (
            f"{self.bound} bounds this run: alone it takes {_ms(longest)} ms, "
            f"{longest / max(others):.3g} times the next part; the loop takes "
            f"{_ms(self.loop)} ms a step, which is {self.reached:.2f} of that speed"
        )
        if self.reached < HIDDEN:
            text += (
                ", and the other parts do not hide behind it (do they share its cores?)"
            )
        return f"{text}; {ADVICE[self.bound]}."


def per_call(work: Callable[[], Any], times: int) -> float:
    """Return the mean seconds per call; `work` must wait for what it starts."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def profile(e: "Experiment", steps: int, out: Path | None) -> tuple[Timing, int]:
    """Return (timing, global batch size) of an experiment; write a trace into `out`."""
    import jax

    from input_pipeline import pipeline, prefetch
    from vitjax import data as data_lib
    from vitjax import program
    from vitjax.config import arguments
    from vitjax.devices import sharding

    mesh = sharding.make_mesh(e.mesh)
    data, data_size = arguments.call(
        "input", pipeline.make_train, e.input, seed=e.seed, start_step=0,
        **data_lib.processes(),
    )  # fmt: skip
    sizes = {"data_size": data_size, "batch_size": e.input["batch_size"]}
    sizes["total_steps"] = e.steps("total", **sizes)
    run = program.build(
        e, mesh, element_spec=data.element_spec, **sizes, labels=data.labels
    )
    home = sharding.batch_sharding(mesh)

    host_batches = iter(data)
    first = next(host_batches)
    _say("data alone")
    for _ in range(data.prefetch + 1):  # prefetched, so they cost nothing
        next(host_batches)
    data_seconds = per_call(lambda: next(host_batches), steps)
    del host_batches
    _say("transfer alone")

    def transfer() -> Any:
        return jax.block_until_ready(prefetch.to_devices(first, home))

    batch = transfer()
    transfer_seconds = per_call(transfer, steps)
    _say("compute alone (after compilation)")
    state: Any = run.init()

    def one_step(batch: Any) -> Any:
        nonlocal state
        state, metrics = run.train_step(state, batch, run.key)
        return metrics

    for _ in range(WARM_UP):
        jax.block_until_ready(one_step(batch))
    compute_seconds = per_call(_then_wait(lambda: one_step(batch), steps), 1) / steps
    _say("the loop")
    ahead = data_lib.OnDevices(data.from_step(0), mesh, e.prefetch_to_device)
    with contextlib.closing(_as_generator(ahead)) as batches:
        state, loop, wait = _loop(state, run, batches, steps, sizes)
        if out is not None:
            _say("the loop, traced")
            with _trace(out):
                _loop(state, _numbered(run), batches, steps, sizes)
    timing = Timing(data_seconds, transfer_seconds, compute_seconds, loop, wait)
    return timing, sizes["batch_size"]


def _as_generator(batches: Any) -> Generator[Any, None, None]:
    yield from batches


def _then_wait(work: Callable[[], Any], times: int) -> Callable[[], None]:
    """Repeat `work` and wait only for the last result, as in training."""
    import jax

    def all_of_it() -> None:
        out = None
        for _ in range(times):
            out = work()
        jax.block_until_ready(out)

    return all_of_it


def _loop(
    state: Any,
    program: Any,
    batches: Iterator[Any],
    steps: int,
    sizes: dict[str, int],
) -> tuple[Any, float, float]:
    """Run the trainer's loop; return the last state and the seconds of two things.

    They are per step, after one more step that is not timed: all of it, and the host's
    wait for a batch. Rows and checkpoints go nowhere. The loop fetches the metrics of
    each step, so the host runs one step ahead, and waits for a batch as the devices do.
    """
    from vitjax import loop
    from vitjax.checkpoints.run import Checkpoints
    from vitjax.devices.stopping import StopSignal
    from vitjax.evaluators.schedule import Schedule
    from vitjax.records.clock import Clock
    from vitjax.records.jsonl import MetricWriter
    from vitjax.records.progress import Progress
    from vitjax.records.rows import Records

    first = int(state.step)
    total = first + 1 + steps
    clock = Clock(
        total_steps=total,
        batch_size=sizes["batch_size"],
        data_size=sizes["data_size"],
        num_devices=program.mesh.size,
    )
    progress, nowhere = Progress(total, first, show=False), MetricWriter([])
    records = Records(nowhere, clock, progress, {}, first, last_good=lambda: None)
    unsaved: Any = SimpleNamespace(
        save=lambda *_: None, poll=lambda: None, finish=lambda: None
    )
    waits: list[float] = []
    state = loop.run(
        state,
        program,
        _timed(batches, waits),
        records=records,
        checkpoints=Checkpoints(unsaved, None, {}, records.counters),
        evals=Schedule([], total, first, ()),
        log_steps=1,
        ckpt_steps=None,
        signal=StopSignal(),  # not entered: Ctrl-C ends the command at once
    )
    return state, clock.train_seconds / steps, sum(waits[1:]) / steps


def _timed(batches: Iterator[Any], waits: list[float]) -> Iterator[Any]:
    """Yield the batches; append the seconds that each is waited for."""
    before = time.perf_counter()
    for batch in batches:
        waits.append(time.perf_counter() - before)
        yield batch
        before = time.perf_counter()


def _numbered(program: Any) -> Any:
    """Return the program with steps that a trace can tell from each other."""
    import jax

    count = itertools.count()

    def train_step(*arguments: Any) -> Any:
        with jax.profiler.StepTraceAnnotation("train", step_num=next(count)):
            return program.train_step(*arguments)

    return dataclasses.replace(program, train_step=train_step)


def _trace(out: Path) -> Any:
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the Python tracer would slow the steps
    return jax.profiler.trace(str(out), profiler_options=options)


def _say(what: str) -> None:
    print(f"timing: {what}", file=sys.stderr, flush=True)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.4g}"


def table(timing: Timing, batch_size: int) -> str:
    """Format a Markdown table: ms per step and images per second of each part."""
    names = {
        "data": "data alone",
        "transfer": "transfer alone (host to device)",
        "compute": "compute alone",
        "loop": "loop, all together",
    }
    rows = []
    for key, name in names.items():
        seconds = getattr(timing, key)
        rows.append((name, _ms(seconds), f"{batch_size / seconds:,.0f}"))
    rows.append(("part of the loop that waits for a batch", _ms(timing.wait), ""))
    return markdown.table(("part", "ms a step", "images a second"), rows)


def parse_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line into (flags, config overrides)."""
    parser = command.parser("profile", DESCRIPTION, EXAMPLES)
    command.add_config(parser)
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N",
        help="training steps that each part is timed for (default: 20)",
    )  # fmt: skip
    command.add_out(parser, "DIR", "the trace", "profile", Path("profile"))
    command.add_json(parser)
    flags, overrides = parse_with_overrides(parser, argv)
    if flags.steps < 1:
        parser.error(f"--steps must be at least 1, got {flags.steps}")
    return flags, overrides


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 after one sentence on stderr."""
    flags, overrides = parse_flags(sys.argv[1:] if argv is None else argv)

    def work() -> None:
        notes = sys.stderr if flags.json else sys.stdout
        figures = _work(flags.config, overrides, flags.steps, flags.out, notes)
        if flags.json:
            print(command.as_json(figures))

    return command.run(work)


def run(
    config: str,
    overrides: Sequence[str],
    steps: int,
    out: Path | None,
    json_file: Path | None,
) -> int:
    """Profile a config for `vitjax.benchmark --data`; return the exit status.

    The trace goes into `out`, the figures into `json_file` too, if they are given.
    """

    def work() -> None:
        if json_file is not None:
            json_file.touch()  # fail before the run, not after it
        figures = _work(config, overrides, steps, out, sys.stdout)
        if json_file is not None:
            json_file.write_text(command.as_json(figures) + "\n")

    return command.run(work)


def _work(
    config: str,
    overrides: Sequence[str],
    steps: int,
    out: Path | None,
    notes: Any,
) -> dict[str, Any]:
    """Print the table and the sentence to `notes`; return the figures."""
    from vitjax.devices import startup

    e = command.read_config(config, overrides)
    command.check_folder("--out", out)
    startup.enable_compilation_cache()
    print(f"devices: {startup.describe()}", file=notes, flush=True)
    timing, batch_size = profile(e, steps, out)
    print(f"\n{table(timing, batch_size)}\n\n{timing.sentence()}\n", file=notes)
    if out is not None:
        print(f"written: {out}", file=notes)
    return {
        **dataclasses.asdict(timing),
        "bound": timing.bound,
        "reached": timing.reached,
    }


if __name__ == "__main__":
    sys.exit(main())
