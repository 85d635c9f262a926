"""Which modules' rungs and mutations make up the ladder."""

from collections.abc import Iterable

from parity.faults import models
from parity.faults.self_test import Mutation, RungFn
from parity.rungs import ladder, model, training

_OF_MODELS = {**model.RUNGS, **training.RUNGS}


def rungs(names: Iterable[str]) -> dict[str, RungFn]:
    """The rungs of these names. Those about pixels import TensorFlow."""
    names = list(names)
    known = dict(_OF_MODELS)
    if not known.keys() >= set(names):
        from parity.rungs import pixels

        known |= pixels.RUNGS
    assert known.keys() <= ladder.RUNGS.keys()
    return {name: known[name] for name in names}


def faults(names: Iterable[str]) -> list[Mutation]:
    """Those that concern some of these rungs."""
    names = set(names)
    known = [*models.MUTATIONS]
    if not _OF_MODELS.keys() >= names:
        from parity.rungs import pixels

        known += pixels.MUTATIONS
    return [fault for fault in known if names & set(fault.rungs)]
