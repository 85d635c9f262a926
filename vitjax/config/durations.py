"""Convert durations in any of four units to steps, and decide when an event is due."""

import math
from collections.abc import Iterable
from typing import Any, Final, Protocol, TypeVar, overload, runtime_checkable

T = TypeVar("T")

UNITS: Final = ("steps", "examples", "epochs", "percent")
_REQUIRED: Final[Any] = object()
MOST: Final = 2**31 - 1  # the train state counts steps in int32


@runtime_checkable
class Section(Protocol):
    """A part of a config: a dict or an `ml_collections.ConfigDict`."""

    def keys(self) -> Iterable[str]:
        """Return the names that are set."""
        ...

    def __getitem__(self, key: str, /) -> Any:
        """Return the value of one name."""
        ...


def keys(prefix: str) -> tuple[str, ...]:
    """Return the four config keys of a duration."""
    return tuple(f"{prefix}_{unit}" for unit in UNITS)


@overload
def steps(
    prefix: str,
    config: Section,
    *,
    data_size: int | None = None,
    batch_size: int | None = None,
    total_steps: int | None = None,
) -> int: ...
@overload
def steps(
    prefix: str,
    config: Section,
    *,
    data_size: int | None = None,
    batch_size: int | None = None,
    total_steps: int | None = None,
    default: T,
) -> int | T: ...
def steps(
    prefix: str,
    config: Section,
    *,
    data_size: int | None = None,
    batch_size: int | None = None,
    total_steps: int | None = None,
    default: Any = _REQUIRED,
) -> Any:
    """Return `{prefix}_steps|_examples|_epochs|_percent` of `config`, in steps.

    `_percent` is a fraction of `total_steps`: 0.1 is a tenth of the run. `_steps` is
    used unchanged. The other units are rounded to the nearest step, to at least 1
    unless they are zero; an epoch may have a fractional number of steps (big_vision
    utils.py:1031-1059). A key whose value is None counts as absent. If no key is
    present, the result is `default`.

    Raises ValueError if no key is present and there is no default, if two units are
    given, if the duration is negative or longer than MOST steps, or if its unit needs a
    `data_size`, `batch_size` or `total_steps` that is None.
    """
    present = set(config.keys())
    given = {
        unit: config[key]
        for unit, key in zip(UNITS, keys(prefix), strict=True)
        if key in present and config[key] is not None
    }
    if not given:
        if default is _REQUIRED:
            raise ValueError(f"no {prefix} duration: set one of {_list(keys(prefix))}")
        return default
    if len(given) > 1:
        names = _list(f"{prefix}_{unit}" for unit in given)
        raise ValueError(
            f"one duration is given twice, as {names}: set all but one to None"
        )
    [(unit, value)] = given.items()
    key = f"{prefix}_{unit}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:
        raise ValueError(f"{key} must be a number of at least 0, got {value!r}")
    if unit == "steps" and value != int(value):
        raise ValueError(f"{key} must be a whole number, got {value!r}")
    if unit == "percent" and value > 1:
        raise ValueError(
            f"{key} is a fraction of the run, so at most 1; got {value!r}, "
            f"write {value / 100} for {value} %"
        )
    if value > 2**62:  # before its conversion to float overflows
        exact = value
    elif unit == "steps":
        exact = int(value)
    elif unit == "percent":
        exact = value * _need(total_steps, "total_steps", key)
    elif unit == "examples":
        exact = value / _need(batch_size, "batch_size", key)
    else:
        steps_per_epoch = _need(data_size, "data_size", key) / _need(
            batch_size, "batch_size", key
        )
        exact = value * steps_per_epoch
    if exact > MOST:
        raise ValueError(
            f"{key} is {value!r}, but a run can be at most {MOST:,} steps long"
        )
    return max(1, round(exact)) if exact else 0


def _need(value: int | None, name: str, key: str) -> int:
    if value is None:
        raise ValueError(
            f"{key} needs {name}, which is not known here: use another unit"
        )
    return value


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def due(
    step: int,
    every: int | None,
    total_steps: int,
    *,
    first: bool = True,
    last: bool = True,
    drop_close_to_last: int | float = 0.25,
) -> bool:
    """Return whether an event of period `every` steps is due after `step`.

    It is due at each multiple of `every`, at step 1 if `first`, and at the last step if
    `last`. With `last`, a multiple less than `drop_close_to_last` periods before the
    end is skipped, since the last step follows soon (big_vision utils.py:350-379). If
    `every` is None or 0, only the first and the last step remain.
    """
    if (first and step == 1) or (last and step == total_steps):
        return True
    if not every or step % every:
        return False
    return not last or abs(total_steps - step) >= drop_close_to_last * every
