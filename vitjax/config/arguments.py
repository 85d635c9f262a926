"""Check a config section, the keyword arguments of one function, before the call.

`lookup` and `unknown` look names up in any literal table.
"""

import collections.abc
import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from vitjax.config import durations

T = TypeVar("T")
_REST = inspect.Parameter.VAR_POSITIONAL

# Config keys, and their names in other trainers or without their section.
_MEANT = {
    "lr": ("learning_rate", "base_lr", "max_lr"),
    "wd": ("weight_decay",),
    "total_epochs": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "total_steps": ("steps", "num_steps", "max_steps", "num_train_steps"),
    "input.batch_size": ("batch", "batch_size", "train_batch_size"),
    "input.data": ("data", "dataset"),
    "input.pp": ("pp", "augmentation", "transforms"),
    "input.sampling": ("sampling",),
    "optax_name": ("optimizer", "opt"),
    "schedule": ("warmup", "warmup_steps", "warmup_epochs", "lr_scheduler"),
    "grad_clip_norm": ("clip_grad", "max_grad_norm"),
    "accum_freq": ("gradient_accumulation_steps", "grad_accum_steps"),
    "model_init": ("pretrained",),
    "width": ("hidden_size", "embed_dim"),
    "depth": ("num_layers",),
    "dropout": ("drop_rate",),
}


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
    takes, open_ended = parameters(function)
    known = {name: p for name, p in takes.items() if name not in given}
    if not open_ended:
        for name in given:
            if name not in takes:
                raise ValueError(
                    f"{function.__module__}.{function.__qualname__} must have a parameter "
                    f"{name}, which the run sets"
                )
        for key in section:
            if key not in known:
                raise unknown(key, known, f"config key in {where}:")
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in section:
            raise ValueError(f"the config lacks {_dotted(where, name)}")
    check_types(where, annotations(function), section)


def parameters(
    function: Callable[..., Any],
) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return (a function's parameters that can be given by name, whether it takes any).

    A class whose __init__ passes **kwargs on also has the parameters of its base class.
    """
    own: dict[str, inspect.Parameter] = {}
    for made in inspect.getmro(function) if inspect.isclass(function) else [function]:
        if inspect.isclass(made) and "__init__" not in vars(made):
            continue
        found = inspect.signature(made).parameters.values()
        named = {p.name: p for p in found if p.kind not in (p.VAR_KEYWORD, _REST)}
        own = {**named, **own}
        if all(p.kind is not p.VAR_KEYWORD for p in found):
            return own, False
    return own, True


def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's parameters, {} if they cannot be read.

    For a class, these are the parameters of `__init__`, and of its base classes'.
    """
    made = [function]
    if inspect.isclass(function):
        made = [c.__init__ for c in reversed(inspect.getmro(function))]
    try:
        return {k: hint for f in made for k, hint in typing.get_type_hints(f).items()}
    except NameError:  # a library may annotate types that it does not import
        return {}


def check_types(
    where: str, hints: Mapping[str, Any], section: Mapping[str, Any]
) -> None:
    """Raise ValueError if a value of `section` does not have the type in `hints`."""
    for key, value in section.items():
        if key in hints and not fits(value, hints[key]):
            raise ValueError(
                f"config key {_dotted(where, key)} must be {in_words(hints[key])}, "
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


def in_words(hint: Any) -> str:
    """Return an annotation in plain words."""
    args = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is tuple and len(args) == 2 and Ellipsis not in args:
        return "pairs"
    if origin is typing.Literal:
        return " or ".join(map(repr, args))
    if origin in (types.UnionType, typing.Union):
        names = dict.fromkeys(in_words(arg) for arg in args)
        if {"a whole number", "a number"} <= names.keys():
            del names["a whole number"]
        return " or ".join(names)
    if origin in (collections.abc.Sequence, list, tuple):
        kinds = {str: "strings", int: "whole numbers", float: "numbers"}
        if args and typing.get_origin(args[0]) is tuple:
            return f"a list of pairs ({', '.join(map(in_words, typing.get_args(args[0])))})"
        return f"a list of {kinds[args[0]]}" if args and args[0] in kinds else "a list"
    if origin in (collections.abc.Mapping, dict) or hint is durations.Section:
        return "a section"
    plain = {int: "a whole number", float: "a number", bool: "True or False"}
    plain |= {str: "a string", types.NoneType: "None", Any: "any value"}
    return plain.get(hint, str(hint))


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


def make_module(module: Any, num_classes: int, kw: dict[str, Any]) -> Any:
    """Return `module(num_classes, **kw)`, `kw` being a config's `model` section.

    Raises ValueError for an unknown name or a wrong type.
    """
    fields = {
        f.name: f
        for f in dataclasses.fields(module)
        if f.init and f.name not in ("parent", "name")
    }
    if "num_classes" not in fields:
        raise ValueError(
            f"the model {module.__name__} must have a field num_classes, which the run "
            "sets"
        )
    for name in kw:
        if name not in fields:
            raise unknown(name, fields, "model argument")
    for name, f in fields.items():
        free = f.default is dataclasses.MISSING is f.default_factory
        if free and name not in kw and name != "num_classes":
            raise ValueError(f"the config lacks {_dotted('model', name)}")
    check_types("model", annotations(module), kw)
    if isinstance(kw.get("patch_size"), list | tuple):
        kw = {**kw, "patch_size": tuple(kw["patch_size"])}
    return module(num_classes=num_classes, **kw)


def unknown(name: str, known: Iterable[str], what: str) -> ValueError:
    """Return the error for a `name` that is not `known`; it suggests the nearest one.

    A suggested key of another section includes the section's name, which is known.
    """
    known = sorted(known)
    hint = did_you_mean(name, known)
    return ValueError(f"unknown {what} {name!r}{hint} (known: {', '.join(known)})")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return "; did you mean NAME?" with the nearest known name, "" without one.

    Upper and lower case are alike.
    """
    lowered = {one.lower(): one for one in known}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    meant = [ours for ours, theirs in _MEANT.items() if name in theirs]
    found = [ours for ours in meant if ours.partition(".")[0] in known]
    found += [lowered[one] for one in near]
    return f"; did you mean {found[0]!r}?" if found else ""


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """Return `table[name]`. Raises ValueError with the known and the nearest names."""
    if not isinstance(name, str) or name not in table:
        raise unknown(name, table, what)
    return table[name]
