"""Plant faults in the torch side, one at a time; the ladder must notice each.

A rung notices a fault if some comparison exceeds its bound by the fault's factor: a
thousand. Only faults that are random on both sides have a lower factor. One of them is
in the initialisation: a truncated normal without the correction of its deviation draws
12 % too little, and its largest value stays 140 times as far below the limit as chance
explains. Its factor is a hundred. parity.faults.pixels gives the factors for pixels.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from unittest import mock

from parity.rungs.comparison import RungFn
from parity.sides import ours
from parity.sides.cases import Case

DRAWS = 100.0


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A fault: `value` replaces `owner.name`, and `rungs` must notice it."""

    title: str
    rungs: tuple[str, ...]
    owner: Any
    name: str
    value: Any
    factor: float = 1e3


def _memory(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` with its results cached; those of a generator as a list."""

    @functools.cache
    def kept(*args: Any) -> Any:
        result = fn(*args)
        return list(result) if isinstance(result, Iterator) else result

    return kept


# Functions of vitjax's side whose results are cached: those that several rungs call,
# those that one rung calls repeatedly, and all that a rung calls under every fault.
SHARED = ("multipliers", "lambdas", "trajectory")
OF_A_RUNG = ("initial_params",)
EVERYTHING = (
    *SHARED,
    *OF_A_RUNG,
    "init_statistics",
    "forward",
    "gradients",
    "updates",
    "evaluate",
)
# For a wide model: its updates of all recipes and steps would not fit in memory.
MUCH = tuple(name for name in EVERYTHING if name != "updates")


@contextlib.contextmanager
def remembered(*names: str) -> Iterator[None]:
    """Cache the results of these functions of vitjax's side within the context."""
    with contextlib.ExitStack() as stack:
        for name in names:
            patch = mock.patch.object(ours, name, _memory(getattr(ours, name)))
            stack.enter_context(patch)
        yield


def run(
    mutations: Iterable[Mutation],
    rungs: Mapping[str, RungFn],
    case: Case,
) -> int:
    """Plant each fault and print one line per rung that must notice.

    Return how many of these did not.
    """
    missed = 0
    for mutation in mutations:
        for name in mutation.rungs:
            if name not in rungs:
                continue
            with mock.patch.object(mutation.owner, mutation.name, mutation.value):
                found = list(rungs[name](case))
            top = max(found, key=lambda c: c.factor)
            caught = top.factor >= mutation.factor
            missed += not caught
            verdict = "caught" if caught else "MISSED"
            where = f"{name}: {top.name}"
            print(
                f"{verdict}  {top.factor:9.2e} x the bound  {mutation.title}  by {where}",
                flush=True,
            )
    return missed
