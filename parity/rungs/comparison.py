"""How two sides are compared, where the bound comes from, and one line of the report.

In float64 the bound is 1e-9, relative: rounding reaches 1e-11 at most here, and each
fault that parity.faults.self_test plants exceeds 1e-6. In float32 and bfloat16 the bound is
measured: four times as much as the reference itself moves when it sums in another order.
The reference, not vitjax, so that a vitjax that rounds badly does not loosen its bound.
The control does nothing else: where vitjax computes by another formula or in another
dtype than torch does of its own, the reference is told to by an argument (Adam's bias
corrections in float32, as optax has them), and a line "known: ..." measures what that
argument changes, against a bound that is derived and not measured.
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

    `curves`, where a line sums up a run: vitjax's values step by step, the reference's,
    and those of the control, if there is one.
    """

    name: str
    measured: float
    bound: float
    detail: str = ""
    curves: tuple[np.ndarray, ...] = dataclasses.field(default=(), compare=False)

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bound; False for NaN."""
        return self.measured <= self.bound

    @property
    def factor(self) -> float:
        """The difference in bounds; NaN counts as infinite."""
        if np.isnan(self.measured):
            return np.inf
        if self.bound == 0:
            return np.inf if self.measured else 0.0
        return self.measured / self.bound


RungFn: TypeAlias = Callable[[Case], Iterator[Comparison]]


@dataclasses.dataclass(frozen=True)
class Errors:
    """The error of each array, and what the controls' were: one mapping a control."""

    precision: str
    measured: Mapping[str, float]
    controls: Sequence[Mapping[str, float]] = ()

    def bound(self, names: Iterable[str]) -> float:
        """The bound of the largest error of these arrays."""
        if self.precision == "float64":
            return FLOAT64_BOUND
        names = list(names)
        found = [control[name] for control in self.controls for name in names]
        # Nothing is known better than to one rounding, even where no control moved.
        return CONTROL_FACTOR * max([EPSILON, *found])

    def line(self, name: str, names: Iterable[str] | None = None) -> Comparison:
        """The largest error of these arrays (default: all) as one comparison."""
        chosen = list(self.measured if names is None else names)
        errors = {key: self.measured[key] for key in chosen}
        return worst(name, errors, self.bound(chosen))

    def grouped(self) -> Iterator[Comparison]:
        """One comparison per parameter name, the blocks taken together."""
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
    """The relative error of every array of `ours`, and of the controls, by `theirs`.

    `floor(name)` is the least denominator.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"names differ: {sorted(ours.keys() ^ theirs.keys())}")

    def errors(side: Mapping[str, Any]) -> dict[str, float]:
        return {k: relative_error(side[k], b, floor(k)) for k, b in theirs.items()}

    return Errors(precision, errors(ours), [errors(other) for other in controls])


def relative_error(ours: Any, theirs: Any, floor: float = 0.0) -> float:
    """max |a - b| / max |b|, with `floor` as the least denominator; 0 for 0 and 0."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    check_shape("vitjax's array", b.shape, a.shape)
    error, scale = float(np.abs(a - b).max()), max(float(np.abs(b).max()), floor)
    if error == 0:
        return 0.0
    return error / scale if scale else float("inf")


def worst(name: str, errors: Mapping[str, float], bound: float) -> Comparison:
    """The largest of several errors as one comparison; NaN counts as the largest."""
    at = max(errors, key=lambda k: np.inf if np.isnan(errors[k]) else errors[k])
    return Comparison(name, errors[at], bound, at)


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """The names by what they are called when the number of their block is left out."""
    found: dict[str, list[str]] = {}
    for name in names:
        group = re.sub(r"encoderblock_\d+", "encoderblock_*", name)
        found.setdefault(group, []).append(name)
    return found
