"""`python -m parity`: vitjax beside the torch reference, one line per comparison."""

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence

RUNGS = ("initialisation", "forward", "loss", "gradients", "update", "trajectory")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; nothing heavy is imported for --help or a mistyped name."""
    parser = argparse.ArgumentParser(
        prog="python -m parity",
        description="Compare vitjax with an independent PyTorch implementation, both "
        "in float64 on the CPU. Prints one line per comparison: verdict, rung, name, "
        "measured difference, bound, and where it is the largest. Differences are "
        "relative to the largest value; for the initialisation they are in standard "
        "errors over seeds. The exit status is 1 if any line says FAIL.",
    )
    parser.add_argument(
        "--only",
        metavar="RUNG,...",
        default=",".join(RUNGS),
        help=f"the rungs to run; all of them by default: {', '.join(RUNGS)}",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME/PATCH",
        help="a size such as mu/16 or S/16, on images of 14 x 14 patches; by default "
        "a small model of width 24 and depth 2 on a 2 x 3 grid",
    )
    parser.add_argument(
        "--batch_size", type=int, help="images per batch; default 8, 2 with --variant"
    )
    parser.add_argument(
        "--self_test",
        action="store_true",
        help="then plant faults in the torch side, one at a time (the exact GELU, decay "
        "on biases, ...), and exit 1 if a rung misses one",
    )
    args = parser.parse_args(argv)
    args.only = [name.strip() for name in args.only.split(",")]
    for name in args.only:
        if name not in RUNGS:
            parser.error(f"--only: unknown rung {name!r}; known are {', '.join(RUNGS)}")
    if args.batch_size is not None and args.batch_size < 2:
        parser.error(
            f"--batch_size must be at least 2, for mixup; got {args.batch_size}"
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rungs and, where asked for, the self-test; the exit status."""
    args = parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        print('parity needs torch: pip install -e ".[parity]"', file=sys.stderr)
        return 2
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    from parity import report, self_test
    from parity.cases import Case, variant_case

    started = time.perf_counter()
    try:
        case = variant_case(args.variant) if args.variant else Case()
    except ValueError as error:
        print(f"error: --variant: {error}", file=sys.stderr)
        return 2
    if args.batch_size is not None:
        case = case.but(batch_size=args.batch_size)
    if not args.self_test:
        failed = report.run(args.only, case)
    else:
        with self_test.remembered():
            failed = report.run(args.only, case)
            failed += self_test.run(args.only, case)
    seconds = time.perf_counter() - started
    print(f"{failed} failed" if failed else "all passed", f"in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
