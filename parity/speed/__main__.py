"""`python -m parity.speed`: time one training step in torch and in vitjax, in turn.

The step is the same; parity.speed.sides says what that means. The losses of the first
steps are compared before anything is timed: different computations are not worth
timing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from input_pipeline import home, places
from parity.speed.sides import SIDES, Problem, make_side, peak_bytes
from vitjax.devices import failures

ROUNDS = 5  # every side runs its share of the steps in each
CHECKED_STEPS = 2
# The relative change of the loss by rounding, at most, in two steps of a deep model.
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


def measure(problem: Problem, names: Sequence[str], block: int) -> dict[str, Any]:
    """Return figures by side.

    Each of `ROUNDS` rounds runs `block` steps of each side. Raises ValueError if the
    sides' first losses differ.
    """
    sides, figures, losses = {}, {}, {}
    for name in names:
        start = time.perf_counter()
        try:
            side = make_side(name, problem)
            losses[name] = [float(side.step(i)) for i in range(CHECKED_STEPS)]
        except Exception as error:
            # A missing or failing compiler may raise any exception.
            if name != "torch.compile":
                raise
            print(f"torch.compile is left out, because it failed: {_first_line(error)}")
            continue
        sides[name] = side
        figures[name] = {"first steps s": time.perf_counter() - start}
    difference = check(losses, TOLERANCE[problem.dtype])
    seconds = {name: [] for name in sides}
    at = CHECKED_STEPS
    for turn in range(ROUNDS):
        order = list(sides)[turn % len(sides) :] + list(sides)[: turn % len(sides)]
        for name in order:
            start = time.perf_counter()
            loss = [sides[name].step(at + i) for i in range(block)][-1]
            sides[name].wait(loss)
            seconds[name].append((time.perf_counter() - start) / block)
        at += block
    for name, values in seconds.items():
        rates = [problem.case.batch_size / s for s in values]
        figures[name] |= {
            "ms/step": 1000 * statistics.median(values),
            "img/s": statistics.median(rates),
            "slowest img/s": min(rates),
            "fastest img/s": max(rates),
        }
    return {"largest difference of the first losses": difference, "sides": figures}


def check(losses: dict[str, list[float]], tolerance: float) -> float:
    """Return the largest relative difference of the sides' losses from vitjax's.

    Raises ValueError if it exceeds `tolerance`.
    """
    ours = losses["vitjax"]
    worst = 0.0
    for name, theirs in losses.items():
        for a, b in zip(ours, theirs, strict=True):
            error = abs(a - b) / abs(a)
            if not error <= tolerance:
                raise ValueError(
                    f"{name} and vitjax must compute the same, but their first losses "
                    f"are {theirs} and {ours}; run `python -m parity` to find the difference"
                )
            worst = max(worst, error)
    return worst


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().split("\n")
    return f"{type(error).__name__}: {lines[0]}"[:300]


def peak_elsewhere(name: str, argv: Sequence[str]) -> int | None:
    """Return `peak_bytes` from a new process, so that no side pays for another."""
    command = [sys.executable, "-m", "parity.speed", *argv, "--memory_of", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None
    return json.loads(done.stdout.strip().split("\n")[-1])


def choose_device() -> str:
    """Return "gpu" if both torch and JAX see one, otherwise "cpu".

    Print a line if only one of them sees one.
    """
    import jax

    from parity.report.run import check_libraries

    check_libraries()
    import torch

    seen = {"torch": torch.cuda.is_available(), "jax": jax.default_backend() != "cpu"}
    if all(seen.values()) and jax.default_backend() == "gpu":
        return "gpu"
    if any(seen.values()):
        who = " and ".join(name for name, has in seen.items() if has)
        print(f"no accelerator that both can use ({who} has one): both use the CPU")
    return "cpu"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m parity.speed",
        description="Time the same training step in torch, eager and compiled, and in "
        "vitjax, in turn, on images of 14 x 14 patches and 1,000 classes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--variant", default="S/16", help="variant of the ViT")
    add("--batch_size", type=int, default=64, help="images a step")
    add("--steps", type=int, default=20, help="timed steps of each side")
    add("--attn_impl", default="flax", help="vitjax's: flax, xla or cudnn")
    add("--no_compile", action="store_true", help="skip torch.compile")
    add("--no_memory", action="store_true", help="skip the measurement of peak memory")
    add("--json", type=places.local, metavar="FILE", help="also write the figures here")
    add("--memory_of", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(home.expanded(argv))
    for name, least in (("steps", 1), ("batch_size", 2)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    # torch and JAX share the device, so neither may take all of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from parity.report import page
    from parity.sides.cases import variant_case
    from vitjax.devices import startup

    block = -(-args.steps // ROUNDS)
    try:
        case = variant_case(args.variant, args.batch_size).but(num_classes=1000)
        problem = Problem(
            case, choose_device(), CHECKED_STEPS + ROUNDS * block + 1, args.attn_impl
        )
        if args.memory_of:
            print(json.dumps(peak_bytes(problem, args.memory_of)))
            return 0
        names = [n for n in SIDES if n != "torch.compile" or not args.no_compile]
        if args.json:
            args.json.touch()  # fail now, not after the run
        found = measure(problem, names, block)
    except Exception as error:
        sentence = failures.sentence(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    eager = found["sides"]["torch eager"]["img/s"]
    for name, figures in found["sides"].items():
        figures["ratio to torch eager"] = figures["img/s"] / eager
        if not args.no_memory:
            figures["peak bytes"] = peak_elsewhere(name, argv)
    report = {
        "variant": args.variant,
        "batch_size": args.batch_size,
        "image_size": list(case.image_size),
        "dtype": problem.dtype,
        "device": startup.describe(),
        "steps": ROUNDS * block,
        "versions": page.versions(),
        **found,
    }
    print("\n".join(as_text(report)))
    if args.json:
        args.json.write_text(json.dumps(report) + "\n")
    return 0


def as_text(report: dict[str, Any]) -> list[str]:
    """Return the report as lines of text."""
    h, w = report["image_size"]
    lines = [
        f"{report['variant']}, batches of {report['batch_size']} images of {h} x {w}, "
        f"{report['dtype']}, {report['steps']} steps each in {ROUNDS} turns; "
        f"{report['device']}, torch {report['versions']['torch']}",
        "the first losses agree to "
        f"{report['largest difference of the first losses']:.1e}",
        f"{'':14} {'img/s':>8} {'slowest..fastest':>20} {'ratio':>6} {'ms/step':>9} "
        f"{'peak MiB':>9} {'first steps':>12}",
    ]
    for name, f in report["sides"].items():
        span = f"{f['slowest img/s']:.4g}..{f['fastest img/s']:.4g}"
        peak = f.get("peak bytes")
        memory = "n/a" if peak is None else f"{peak / 2**20:,.0f}"
        lines.append(
            f"{name:14} {f['img/s']:8.4g} {span:>20} {f['ratio to torch eager']:6.2f} "
            f"{f['ms/step']:9.4g} {memory:>9} {f['first steps s']:10.1f} s"
        )
    return lines


if __name__ == "__main__":
    failures.leave_on_interrupt()
    sys.exit(main())
