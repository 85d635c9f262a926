"""The faults that concern each rung."""

from collections.abc import Iterable

from parity.faults import models
from parity.faults.self_test import Mutation
from parity.rungs import ladder


def faults(names: Iterable[str]) -> list[Mutation]:
    """Return the faults that concern some of these rungs."""
    names = set(names)
    known = [*models.MUTATIONS]
    if any(ladder.RUNGS[name].pixels for name in names):
        from parity.faults import pixels  # imports TensorFlow

        known += pixels.MUTATIONS
    return [fault for fault in known if names & set(fault.rungs)]
