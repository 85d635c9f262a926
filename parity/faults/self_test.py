"""Faults planted in the torch side, one at a time; the ladder must notice each.

A rung notices when some comparison exceeds its bound by the fault's factor: a thousand.
What remains below that is random on both sides. Of the initialisation, one fault: a
truncated normal without the correction of its deviation draws 12 % too little, and its
largest value stays 140 times as far below the limit as chance explains; a hundred is asked
for. Of pixels, parity.faults.pixels says what is asked for.
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
    """A fault: what is replaced (`owner.name` by `value`), and who must notice."""

    title: str
    rungs: tuple[str, ...]
    owner: Any
    name: str
    value: Any
    factor: float = 1e3


def _memory(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` with its results kept; those of a generator as a list."""

    @functools.cache
    def kept(*args: Any) -> Any:
        result = fn(*args)
        return list(result) if isinstance(result, Iterator) else result

    return kept


# What several rungs ask for, what one rung asks for again and again, and all that the
# same rung asks for under every fault.
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
# Of a wide model: the updates of all recipes and steps would not fit.
MUCH = tuple(name for name in EVERYTHING if name != "updates")


@contextlib.contextmanager
def remembered(*names: str) -> Iterator[None]:
    """Within it, these functions of vitjax's side compute each thing once."""
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
    """Plant each fault, print one line per rung that must notice; how many did not."""
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
