"""Check a config section, the keyword arguments of one function, before the call."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vitjax.config import durations
from vitjax.config.lookup import unknown


def call(where: str, function: Callable[..., Any], section: Any, **given: Any) -> Any:
    """Return `function(**section, **given)`, after `check` of the section.

    Args:
      where: the section's name for messages, e.g. "input" or "evals.val"; "" for keys
        at the top level.
      function: its keyword parameters are the allowed keys of the section; their
        annotations are the types of the values.
    """
    check(where, function, section, given)
    return function(**section, **given)


def check(
    where: str,
    function: Callable[..., Any],
    section: Any,
    given: Collection[str] = (),
) -> None:
    """Raise ValueError if `function` does not take a key or value, or a key is missing.

    `given` names the parameters that the caller sets, which the section must not set.
    """
    if not isinstance(section, Mapping):
        raise ValueError(
            f"config section {where} must be a section (a dict of keys), got {section!r}"
        )
    parameters = inspect.signature(function).parameters.values()
    known = {
        p.name: p
        for p in parameters
        if p.name not in given and p.kind is not p.VAR_KEYWORD
    }
    if len(known) == sum(p.name not in given for p in parameters):
        for key in section:
            if key not in known:
                raise unknown(key, known, f"config key in {where}:")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in section:
            raise ValueError(f"the config lacks {_dotted(where, name)}")
    check_types(where, annotations(function), section)


def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's parameters, {} if they cannot be read.

    For a class, these are the parameters of `__init__`.
    """
    try:
        return typing.get_type_hints(
            function.__init__ if inspect.isclass(function) else function
        )
    except NameError:  # a library may annotate types that it does not import
        return {}


def check_types(
    where: str, hints: Mapping[str, Any], section: Mapping[str, Any]
) -> None:
    """Raise ValueError if a value of `section` does not have the type in `hints`."""
    for key, value in section.items():
        if key in hints and not fits(value, hints[key]):
            raise ValueError(
                f"config key {_dotted(where, key)} must be {_name(hints[key])}, "
                f"got {value!r}"
            )


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def fits(value: Any, hint: Any) -> bool:
    """Return whether a config value has the type `hint`.

    An int is accepted as a float, and a list as a tuple. True is not a number. Hints
    that a config cannot violate (Any, protocols, array types) accept every value.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, arg) for arg in args)
    if hint is None or hint is types.NoneType:
        return value is None
    if hint in (int, float):
        numbers = (int,) if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if origin is typing.Literal:
        return value in args
    if origin in (collections.abc.Sequence, list, tuple):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and Ellipsis not in args:
            return len(value) == len(args) and all(map(fits, value, args))
        return all(fits(item, args[0]) for item in value)
    if origin in (collections.abc.Mapping, dict) or hint is durations.Section:
        return isinstance(value, Mapping)
    return True


def _name(hint: Any) -> str:
    """Return an annotation in words."""
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is tuple and len(args) == 2 and Ellipsis not in args:
        return "pairs"
    if origin in (types.UnionType, typing.Union):
        names = dict.fromkeys(_name(arg) for arg in args)
        if {"a whole number", "a number"} <= names.keys():
            del names["a whole number"]
        return " or ".join(names)
    if origin in (collections.abc.Sequence, list, tuple):
        kinds = {str: "strings", int: "whole numbers", float: "numbers"}
        if args and typing.get_origin(args[0]) is tuple:
            return (
                f"a list of pairs ({', '.join(map(_name, typing.get_args(args[0])))})"
            )
        return f"a list of {kinds[args[0]]}" if args and args[0] in kinds else "a list"
    if origin in (collections.abc.Mapping, dict) or hint is durations.Section:
        return "a section"
    words = {int: "a whole number", float: "a number", bool: "True or False"}
    words |= {str: "a string", types.NoneType: "None", Any: "any value"}
    return words.get(hint, str(hint))


def check_values(where: str, value: Any) -> None:
    """Raise ValueError unless `value` fits config.json, and its integers 64 bits."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"the keys of config section {where} must be strings, got {key!r}"
                )
            check_values(f"{where}.{key}".strip("."), inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_values(where, inner)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(
                f"config key {where} must be of at most 64 bits, got {hex(value)}"
            )
    elif not isinstance(value, float | str | None):
        raise ValueError(
            f"config key {where} must be a number, a string, True, False, None, or a "
            f"list or a section of these, got {value!r}"
        )
