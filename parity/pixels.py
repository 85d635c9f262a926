"""Rungs 8 to 10: decoding, resizing and augmentation, in grey levels; `RUNGS`.

They need TensorFlow, by way of input_pipeline, and no model: each takes a `Case` as all
rungs do and does not look at it. `python -m parity.pixels` runs these rungs alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch

from parity import augmentation, decoding, distributions, pixel_figures, resizing
from parity.cases import Case
from parity.comparison import Comparison
from parity.pixel_faults import FACTORS, MUTATIONS
from parity.self_test import Mutation

__all__ = ["FACTORS", "MUTATIONS", "REASONS", "RUNGS", "figures"]


def augmented(case: Case) -> Iterator[Comparison]:
    """Rung 10: where crops lie, single ops, and the random policy."""
    yield from distributions.crop_boxes()
    yield from augmentation.single_ops()
    yield from distributions.policy()


RUNGS: dict[str, Callable[[Case], Iterator[Comparison]]] = {
    "decoding": decoding.decoding,
    "resize": resizing.resizing,
    "augmentation": augmented,
}
# Why vitjax differs from others, for each line "known: WHAT, ...", by WHAT.
REASONS = {
    **decoding.REASONS,
    **resizing.REASONS,
    **augmentation.REASONS,
    **distributions.REASONS,
}
figures = pixel_figures.figures


def caught(mutation: Mutation, rung: str) -> Comparison | None:
    """The first comparison that exceeds its bound by the rung's factor, under a fault."""
    with mock.patch.object(mutation.owner, mutation.name, mutation.value):
        for comparison in RUNGS[rung](Case()):
            if comparison.measured >= FACTORS[rung] * comparison.bound:
                return comparison
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rungs and, where asked for, plant the faults; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m parity.pixels")
    parser.add_argument("--self_test", action="store_true", help="plant faults as well")
    parser.add_argument("--out", type=Path, help="a folder for the figures")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # images are small: threads would wait for each other
    started, failed = time.perf_counter(), 0
    for rung, compare in RUNGS.items():
        for line in compare(Case()):
            failed += not line.passed
            verdict = "pass" if line.passed else "FAIL"
            numbers = f"{line.measured:8.3g} <= {line.bound:6.3g}"
            print(f"{verdict}  {numbers}  {rung}: {line.name}  at {line.detail}")
    for mutation in MUTATIONS if args.self_test else ():
        for rung in mutation.rungs:
            line = caught(mutation, rung)
            failed += line is None
            verdict = f"caught  by {rung}: {line.name}" if line else "MISSED"
            print(f"{verdict}  {mutation.title}", flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        for name, figure in figures().items():
            figure.savefig(args.out / f"{name}.png")
    print(f"{failed or 'none'} failed in {time.perf_counter() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
