"""A difference of two sides, its bound, and one line of the report.

In float64 the bound is 1e-9, relative: rounding reaches 1e-11 at most here, and each
fault that parity.faults.self_test plants exceeds 1e-6. In float32 and bfloat16 the
bound is measured: four times the change of the reference when it sums in another order.
The change is the reference's, so that bad rounding in vitjax does not loosen its bound.

The control changes nothing else. vitjax and torch sometimes differ by default in formula
or dtype; an argument then makes the reference do the same as vitjax (Adam's bias
corrections in float32, as in optax). A line "known: ..." measures the effect of that
argument, against a bound that is derived and not measured.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from parity.sides.cases import Case
from parity.sides.weights import check_shape

FLOAT64_BOUND = 1e-9
CONTROL_FACTOR = 4.0
EPSILON = float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One line of the report; `detail` says where the difference is the largest.

    `curves` is for a line that sums up a run. It holds the values step by step of
    vitjax, of the reference and, if there is one, of the control.
    """

    name: str
    measured: float
    bound: float
    detail: str = ""
    curves: tuple[np.ndarray, ...] = dataclasses.field(default=(), compare=False)

    @property
    def passed(self) -> bool:
        """True if the difference is within the bound; False for NaN."""
        return self.measured <= self.bound

    @property
    def factor(self) -> float:
        """The difference divided by the bound; NaN counts as infinite."""
        if np.isnan(self.measured):
            return np.inf
        if self.bound == 0:
            return np.inf if self.measured else 0.0
        return self.measured / self.bound


RungFn: TypeAlias = Callable[[Case], Iterator[Comparison]]


@dataclasses.dataclass(frozen=True)
class Errors:
    """The error of each array, and those of the controls: one mapping per control."""

    precision: str
    measured: Mapping[str, float]
    controls: Sequence[Mapping[str, float]] = ()

    def bound(self, names: Iterable[str]) -> float:
        """Return the bound of the largest error of these arrays."""
        if self.precision == "float64":
            return FLOAT64_BOUND
        names = list(names)
        found = [control[name] for control in self.controls for name in names]
        # The least error is one rounding, even if no control moved.
        return CONTROL_FACTOR * max([EPSILON, *found])

    def line(self, name: str, names: Iterable[str] | None = None) -> Comparison:
        """Return the largest error of these arrays (default: all) as one comparison."""
        chosen = list(self.measured if names is None else names)
        errors = {key: self.measured[key] for key in chosen}
        return worst(name, errors, self.bound(chosen))

    def grouped(self) -> Iterator[Comparison]:
        """Yield one comparison per parameter name, with all blocks in one."""
        for group, names in groups(self.measured).items():
            line = self.line(group, names)
            yield line if "*" in group else dataclasses.replace(line, detail="")


def compared(
    precision: str,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    controls: Iterable[Mapping[str, Any]] = (),
    floor: Callable[[str], float] = lambda name: 0.0,
) -> Errors:
    """Return the errors of every array of `ours`, and of the controls.

    Errors are relative to `theirs`; `floor(name)` is the least denominator. Raises
    ValueError if the names differ.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"names differ: {sorted(ours.keys() ^ theirs.keys())}")

    def errors(side: Mapping[str, Any]) -> dict[str, float]:
        return {k: relative_error(side[k], b, floor(k)) for k, b in theirs.items()}

    return Errors(precision, errors(ours), [errors(other) for other in controls])


def relative_error(ours: Any, theirs: Any, floor: float = 0.0) -> float:
    """Return max |a - b| / max |b|; 0 for 0 and 0.

    `floor` is the least denominator.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    check_shape("vitjax's array", b.shape, a.shape)
    error, scale = float(np.abs(a - b).max()), max(float(np.abs(b).max()), floor)
    if error == 0:
        return 0.0
    return error / scale if scale else float("inf")


def worst(name: str, errors: Mapping[str, float], bound: float) -> Comparison:
    """Return the largest of several errors as one comparison; NaN is the largest."""
    at = max(errors, key=lambda k: np.inf if np.isnan(errors[k]) else errors[k])
    return Comparison(name, errors[at], bound, at)


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Group the names that differ only in the number of their block."""
    found: dict[str, list[str]] = {}
    for name in names:
        group = re.sub(r"encoderblock_\d+", "encoderblock_*", name)
        found.setdefault(group, []).append(name)
    return found
