"""The modules whose rungs make up the ladder."""

from collections.abc import Iterable

from parity.rungs import ladder, model, training
from parity.rungs.comparison import RungFn

_OF_MODELS = {**model.RUNGS, **training.RUNGS}


def rungs(names: Iterable[str]) -> dict[str, RungFn]:
    """Return the rungs of these names. Those about pixels import TensorFlow."""
    names = list(names)
    known = dict(_OF_MODELS)
    if not known.keys() >= set(names):
        from parity.rungs import pixels

        known |= pixels.RUNGS
    assert known.keys() <= ladder.RUNGS.keys()
    return {name: known[name] for name in names}
