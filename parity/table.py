"""Which modules' rungs and mutations make up the ladder."""

from parity import ladder, model_rungs, mutations, training_rungs

RUNGS = {**model_rungs.RUNGS, **training_rungs.RUNGS}
MUTATIONS = (*mutations.MUTATIONS,)

assert RUNGS.keys() == ladder.RUNGS.keys()
