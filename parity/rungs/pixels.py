"""Rungs 8 to 10: decoding, resizing and augmentation, in grey levels; `RUNGS`.

They need TensorFlow, through input_pipeline, but no model: each takes a `Case`, as all
rungs do, and does not use it.
"""

from collections.abc import Iterator

from parity.rungs import augmentation, decoding, distributions, resizing
from parity.rungs.comparison import Comparison, RungFn
from parity.sides.cases import Case


def augmented(case: Case) -> Iterator[Comparison]:
    """Compare the boxes of crops, single ops and the random policy: rung 10."""
    yield from distributions.crop_boxes()
    yield from augmentation.single_ops()
    yield from distributions.policy()


RUNGS: dict[str, RungFn] = {
    "decoding": decoding.decoding,
    "resize": resizing.resizing,
    "augmentation": augmented,
}
# The reason of each line "known: WHAT, ...", by WHAT.
REASONS = {
    **decoding.REASONS,
    **resizing.REASONS,
    **augmentation.REASONS,
    **distributions.REASONS,
}
