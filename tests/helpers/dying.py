"""The trainer, with a SIGKILL at a chosen moment.

The moments are too short to be met from outside. The signal is the real one, and what
is killed is the whole process, in the middle of what it does.
"""

import functools
import itertools
import os
import signal

from vitjax import train
from vitjax.evaluators.classification import Classification


def die():
    """Without a last word."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying_batch():
    """No batch, but the end."""
    die()
    yield


def in_an_evaluation(step):
    """Between two batches of the first evaluation from `step` on."""
    run = Classification.run

    def dying(self, state):
        if int(state.step) >= step:
            head = itertools.islice(iter(self._batches), 2)
            self._batches = itertools.chain(head, dying_batch())
        yield from run(self, state)

    Classification.run = dying


def around(name, is_it, *, before):
    """Before or after the call of an `os` function whose target `is_it`."""
    function = getattr(os, name)

    @functools.wraps(function)
    def dying(source, target, **kwargs):
        if before and is_it(str(target)):
            die()
        function(source, target, **kwargs)
        if is_it(str(target)):
            die()

    setattr(os, name, dying)


def at_a_commit(step, *, before):
    """When the first checkpoint from `step` on gets its name, which makes it whole."""

    def is_it(target):
        folder, _, name = target.rpartition("/")
        own = folder.endswith("/checkpoints") and "/best/" not in folder
        return own and name.isdigit() and int(name) >= step

    around("rename", is_it, before=before)


def in_the_cut(_, *, before):
    """When the shortened metrics.jsonl takes the place of the old one."""
    around("replace", lambda target: target.endswith("metrics.jsonl"), before=before)


MOMENTS = {
    "never": lambda _: None,
    "evaluation": in_an_evaluation,
    "before_commit": functools.partial(at_a_commit, before=True),
    "after_commit": functools.partial(at_a_commit, before=False),
    "before_cut": functools.partial(in_the_cut, before=True),
    "after_cut": functools.partial(in_the_cut, before=False),
}


def run(moment, argv):
    """The command with these arguments, killed at a moment such as "evaluation:9"."""
    name, _, step = moment.partition(":")
    MOMENTS[name](int(step or 0))
    return train.cli(argv)
