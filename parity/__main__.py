"""Compare vitjax with a torch reference: `python -m parity`, a line per comparison."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from input_pipeline import home, places
from parity.rungs.ladder import PRECISIONS, RUNGS, explain
from vitjax import commands
from vitjax.devices import failures


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags. --help and a mistyped name import no heavy package."""
    parser = argparse.ArgumentParser(
        prog=commands.called("parity.__main__"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Compare vitjax with an independent PyTorch implementation on the CPU. Prints one line per
comparison: verdict, measured difference, bound, rung, precision, name, and where it is
the largest. Differences are relative to the largest value; those of the initialisation
are in standard errors over seeds.

In float64 the bound is 1e-9, and 0 for the number of examples that only one side
classifies correctly. In float32 and bfloat16 the bound is measured: four times the
difference of the reference from itself with another order of sums (pixels, tokens,
width, heads and hidden units permuted; for bfloat16 also from itself in float32).
bfloat16 is the type of matrix products, bfloat16_all that of the residual stream too. In
float32 the reference computes Adam's bias corrections in float32, as optax does. Lines
"known: ..." measure such known differences, against derived bounds.

The exit status is 1 if any line says FAIL.""",
        epilog=explain(),
    )
    parser.add_argument(
        "--only", metavar="RUNG,...", default=",".join(RUNGS), help="default: all rungs"
    )
    parser.add_argument(
        "--precision",
        metavar="NAME,...",
        default=",".join(PRECISIONS),
        help="any of float64, float32, bfloat16 and bfloat16_all; default: all",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME/PATCH",
        help="a size such as mu/16 or S/16, on images of 14 x 14 patches; by default "
        "a small model of width 24 and depth 2 on a 2 x 3 grid. With --variant the rungs are "
        "shorter: 8 seeds of the initialisation, 30 steps of the trajectory, 50 examples to "
        "evaluate; options are compared at a depth of 2, their gradients in float64, "
        "devices and single updates at a depth of 1; precisions run one after another, to "
        "save memory",
    )
    parser.add_argument(
        "--batch_size", type=int, help="images per batch; default 8, 2 with --variant"
    )
    parser.add_argument(
        "--self_test",
        action="store_true",
        help="also plant faults in the torch side, one at a time (the exact GELU, decay "
        "on biases, ...), in float64; exit 1 if a rung misses one",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=places.local,
        help="also write DIR/index.html: the table, the curves, the calibration grids "
        "and the spectra, in one file",
    )
    args = parser.parse_args(home.expanded(argv))
    for flag, known in (("only", RUNGS), ("precision", PRECISIONS)):
        names = [name.strip() for name in getattr(args, flag).split(",")]
        for name in names:
            if name not in known:
                what = "rung" if flag == "only" else flag
                parser.error(
                    f"--{flag}: unknown {what} {name!r}; known are {', '.join(known)}"
                )
        setattr(args, flag, names)
    if args.batch_size is not None and args.batch_size < 2:
        parser.error(
            f"--batch_size must be at least 2, for mixup; got {args.batch_size}"
        )
    if args.self_test and "float64" not in args.precision:
        parser.error("--self_test needs float64 among --precision")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rungs and, with --self_test, the self-test; return the exit status."""
    args = parse_args(argv)
    from parity.faults import self_test
    from parity.report import run as report
    from parity.sides.cases import Case, variant_case
    from vitjax.weights.libraries import Unusable

    started = time.perf_counter()
    try:
        report.check_libraries(args.only)
    except Unusable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        case = variant_case(args.variant) if args.variant else Case()
    except ValueError as error:
        print(f"error: --variant: {error}", file=sys.stderr)
        return 2
    if args.batch_size is not None:
        case = case.but(batch_size=args.batch_size)
    kept = self_test.MUCH if report.is_wide(case) else self_test.EVERYTHING
    with self_test.remembered(*(kept if args.self_test else ())):
        results = report.run(args.only, args.precision, case)
        failed = sum(not comparison.passed for _, comparison in results)
        if args.self_test:
            failed += report.run_self_test(args.only, case)
    if args.out is not None:
        print(_write_page(args, results, sys.argv[1:] if argv is None else argv))
    seconds = time.perf_counter() - started
    print(f"{failed} failed" if failed else "all passed", f"in {seconds:.0f} s")
    return 1 if failed else 0


def _write_page(
    args: argparse.Namespace, results: Sequence[Any], argv: Sequence[str]
) -> Path:
    from parity.report import curves, page

    drawn, reasons = curves.figures(results), {}
    if any(RUNGS[name].pixels for name in args.only):
        from parity.report.pixels import figures
        from parity.rungs import pixels

        drawn |= {k.replace("_", " "): v for k, v in figures().items()}
        reasons = pixels.REASONS
    about = {title: RUNGS[title.split()[0]].about for title, _ in results}
    return page.write(
        args.out, results, drawn, arguments=argv, about=about, reasons=reasons
    )


if __name__ == "__main__":
    failures.leave_on_interrupt()
    sys.exit(main())
