"""Rungs 8 to 10: decoding, resizing and augmentation, in grey levels; `RUNGS`.

They need TensorFlow, by way of input_pipeline, and no model: each takes a `Case` as all
rungs do and does not look at it.
"""

from collections.abc import Iterator
from unittest import mock

from parity.faults.pixels import MUTATIONS
from parity.faults.self_test import Mutation, RungFn
from parity.report import pixels
from parity.rungs import augmentation, decoding, distributions, resizing
from parity.rungs.comparison import Comparison
from parity.sides.cases import Case

__all__ = ["MUTATIONS", "REASONS", "RUNGS", "figures"]


def augmented(case: Case) -> Iterator[Comparison]:
    """Rung 10: where crops lie, single ops, and the random policy."""
    yield from distributions.crop_boxes()
    yield from augmentation.single_ops()
    yield from distributions.policy()


RUNGS: dict[str, RungFn] = {
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
figures = pixels.figures


def caught(mutation: Mutation, rung: str) -> Comparison | None:
    """The first comparison that exceeds its bound by the fault's factor, under it."""
    with mock.patch.object(mutation.owner, mutation.name, mutation.value):
        for comparison in RUNGS[rung](Case()):
            if comparison.factor >= mutation.factor:
                return comparison
    return None
