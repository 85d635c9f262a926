"""The rung that compares initialisations: statistics over seeds, and limits of draws.

Both sides draw in float32 in every precision, so the rung has no precision.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from parity.reference.vit import TRUNCATED_STD
from parity.rungs.comparison import EPSILON, Comparison, Errors, worst
from parity.sides import ours, theirs
from parity.sides.cases import Case
from vitjax.trees import flatten_with_names

# In standard errors. With 8 or more seeds a side, the hundreds of statistics of a run
# stay below 5; the seeds are fixed, so a run's verdict does not change by luck.
INIT_BOUND = 7.0
BEYOND_BOUND = 4 * EPSILON  # both the limit and the draws are rounded
# The gap between the largest of n draws and its limit L is at most x L with probability
# 1 - (1 - g x)^n. The share of draws in the outermost x L is g x, where g is 1 for the
# uniform distribution and 2 * 2 phi(2) / (2 Phi(2) - 1) = 0.2262 for a normal truncated
# at 2 deviations. At x = 20 / (g n) the gap is larger once in e^20 = 5e8 times.
UNLIKELY = 20.0
DENSITIES = {"uniform": 1.0, "truncated normal": 0.2262}


class _Statistics(Errors):
    """Errors in standard errors, which share one bound for all parameters."""

    def bound(self, names: object) -> float:
        return INIT_BOUND


def initialisation(case: Case) -> Iterator[Comparison]:
    """Yield mean, deviation, least and greatest value of every parameter, over seeds.

    They are measured in standard errors of the difference between both sides' averages.
    The limits of the draws follow from the fans. On both sides no draw may exceed its
    limit, and the largest must come as near to it as the number of draws implies. These
    are measured as a share of the limit.
    """
    base = case.but(head_zeroinit=True, precision="float32")
    others = [
        base.but(depth=1, posemb="learn", pool_type="map", rep_size=0),
        base.but(depth=1, posemb="none", pool_type="tok", registers=3),
        base.but(depth=1, head_zeroinit=False),
    ]
    yield from _errors(base).grouped()
    for other in others:
        zero = "" if other.head_zeroinit else " head_zeroinit=False"
        yield _errors(other).line(other.label() + zero)
    yield from _limit_lines(base)


def _errors(case: Case) -> Errors:
    a, b = ours.init_statistics(case), theirs.init_statistics(case, first_seed=0)
    return _Statistics(case.precision, _standard_errors(a, b))


def _standard_errors(a: theirs.Arrays, b: theirs.Arrays) -> dict[str, float]:
    errors = {}
    for name in b:
        difference = np.abs(a[name].mean(axis=0) - b[name].mean(axis=0))
        variance = a[name].var(axis=0, ddof=1) + b[name].var(axis=0, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = difference / np.sqrt(variance / len(b[name]))
        # Values that do not vary (zeros, ones) must be equal.
        errors[name] = float(np.where(difference == 0, 0.0, z).max())
    return errors


def limit(name: str, shape: tuple[int, ...]) -> tuple[str, float] | None:
    """Return a kernel's distribution and the largest value it may draw; None: no limit.

    It holds for the case with a zero head. For attention and MLP the limit is Glorot's
    sqrt(6 / (fan in + fan out)), with heads and their dimensions taken as one. For the
    others it is two deviations before truncation; their variance after it is 1 / fan
    in.
    """
    if not name.endswith("/kernel") or name == "head/kernel":
        return None
    if name in ("embedding/kernel", "pre_logits/kernel"):
        return "truncated normal", 2 / math.sqrt(math.prod(shape[:-1])) / TRUNCATED_STD
    split = 1 if name.endswith(("query/kernel", "key/kernel", "value/kernel")) else -1
    fans = math.prod(shape[:split]) + math.prod(shape[split:])
    return "uniform", math.sqrt(6 / fans)


def _limit_lines(case: Case) -> Iterator[Comparison]:
    sides = {
        "vitjax": ours.init_statistics(case),
        "torch": theirs.init_statistics(case, first_seed=0),
    }
    beyond: dict[str, float] = {}
    # (kind of kernel, side) -> (smallest gap, number of draws times g)
    below: dict[tuple[str, str], tuple[float, float]] = {}
    for name, leaf in flatten_with_names(ours.shapes(case)):
        found = limit(name, leaf.shape)
        if found is None:
            continue
        distribution, most = found
        kind = _kind(name)
        draws = case.num_seeds * math.prod(leaf.shape) * DENSITIES[distribution]
        for side, statistics in sides.items():
            top = _largest(statistics, name) / most
            beyond[f"{name}, {side}"] = max(top - 1, 0.0)
            free, count = below.get((kind, side), (1.0, 0.0))
            below[kind, side] = (min(free, max(1 - top, 0.0)), count + draws)
    yield worst("largest values beyond their limits", beyond, BEYOND_BOUND)
    for kind in dict.fromkeys(kind for kind, _ in below):
        free = {side: below[kind, side] for side in sides}
        errors = {side: x for side, (x, _) in free.items()}
        bound = UNLIKELY / free["torch"][1]
        yield worst(f"largest values below their limit, {kind}", errors, bound)


def _largest(statistics: Mapping[str, np.ndarray], name: str) -> float:
    _, _, least, greatest = np.asarray(statistics[name], np.float64).T
    return float(max(greatest.max(), -least.min()))


def _kind(name: str) -> str:
    """Return a kernel's kind; one line of code draws all kernels of a kind."""
    if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return "query, key, value"
    if name.endswith("out/kernel"):
        return "attention's output"
    return "MLP" if "/Dense_" in name else "embedding, pre_logits"
