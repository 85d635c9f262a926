"""How two arrays are compared, and one line of the report."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity.weights import check_shape


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One line of the report; `detail` says where the difference is the largest."""

    name: str
    measured: float
    bound: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bound; False for NaN."""
        return self.measured <= self.bound


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


def grouped(errors: Mapping[str, float], bound: float) -> Iterator[Comparison]:
    """One comparison per parameter name, the blocks taken together."""
    groups: dict[str, dict[str, float]] = {}
    for leaf, error in errors.items():
        group = re.sub(r"encoderblock_\d+", "encoderblock_*", leaf)
        groups.setdefault(group, {})[leaf] = error
    for group, members in groups.items():
        line = worst(group, members, bound)
        yield line if "*" in group else dataclasses.replace(line, detail="")
