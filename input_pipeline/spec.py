"""The op language: "decode|flip_lr|randaug(2, 10)|keep('image', 'labels')".

Ops are separated by "|"; arguments are Python literals, read with `ast` and never
evaluated. Host ops (`ops`) and device ops (device_ops.py) share this file, which
therefore needs neither TensorFlow nor JAX.
"""

import ast
import contextlib
import difflib
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Errors of `ast` on a hostile string: deep nesting, null bytes, huge numbers,
# unhashable keys.
_AST_ERRORS = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


class OpCall(NamedTuple):
    """One op of a spec: its name, its arguments, and how it is written."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    source: str  # the whole text, for another spec

    @property
    def text(self) -> str:
        """The text for messages, shortened."""
        return _short(self.source)


def _short(source: str) -> str:
    return source if len(source) <= 80 else f"{source[:77]}..."


def parse(spec: Any) -> list[OpCall]:
    """Parse a spec into its ops; "" has none.

    Raises:
      ValueError: an op cannot be read; the message has its position and text.
    """
    if not isinstance(spec, str):
        raise ValueError(f"a preprocessing spec must be a string, got {spec!r}")
    if not spec.strip():
        return []
    return [
        _parse_op(text.strip(), position)
        for position, text in enumerate(_split(spec), start=1)
    ]


def _split(spec: str) -> list[str]:
    """Split at every "|" outside quotes, into the text of each op."""
    parts, start, quote, escaped = [], 0, "", False
    for i, char in enumerate(spec):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "|":
            parts.append(spec[start:i])
            start = i + 1
    return [*parts, spec[start:]]


def _parse_op(source: str, position: int) -> OpCall:
    where = f"op {position} of the spec, {_short(source)!r},"
    if not source:
        raise ValueError(f"op {position} of the spec is empty: remove one '|'")
    try:
        node = ast.parse(source, mode="eval").body
    except _AST_ERRORS as e:
        why = e.msg if isinstance(e, SyntaxError) else e
        raise ValueError(f"{where} cannot be read: {why}") from None
    name = _dotted(node.func if isinstance(node, ast.Call) else node)
    if name is None:
        raise ValueError(f"{where} is not of the form name or name(arguments)")
    if not isinstance(node, ast.Call):
        return OpCall(name, (), {}, source)
    names = [keyword.arg for keyword in node.keywords]
    if None in names:
        raise ValueError(f"{where} unpacks with **: write the arguments out")
    if len(set(names)) < len(names):
        raise ValueError(f"{where} gives an argument twice: {names}")
    try:
        args = tuple(ast.literal_eval(arg) for arg in node.args)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except _AST_ERRORS:
        raise ValueError(
            f"{where} has an argument that is not a literal (a number, a string, a "
            "tuple, True, None, ...)"
        ) from None
    return OpCall(name, args, kwargs, source)


def _dotted(node: ast.expr) -> str | None:
    """Return "a" or "a.b.c" of such an expression, None for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value)
        return None if start is None else f"{start}.{node.attr}"
    return None


def names(spec: str) -> list[str]:
    """Return the names of the ops of a spec; none if the spec cannot be read."""
    try:
        return [call.name for call in parse(spec)]
    except ValueError:  # reported where the ops are made
        return []


def renamed(spec: str, new: Mapping[str, str]) -> str:
    """Return the spec with `new[name]` in place of each op's name that is in `new`."""
    parts = _split(spec)
    for at, text in enumerate(parts):
        found = re.match(r"(\s*)([\w.]+)", text)
        if found is not None and found[2] in new:
            parts[at] = found[1] + new[found[2]] + text[found.end() :]
    return "|".join(parts)


def unknown_op(call: OpCall, known: Iterable[str], where: str) -> ValueError:
    """Return the error for an op that the table of `where` ("host", "device") lacks."""
    known = sorted(known)
    return ValueError(
        f"unknown {where} op {call.name!r} in {call.text!r}"
        f"{did_you_mean(call.name, known)} (known: {', '.join(known)})"
    )


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean 'NEAREST'?", or "" if no known name is near.

    Upper and lower case are alike.
    """
    lowered = {one.lower(): one for one in known}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def build(call: OpCall, factory: Callable[..., Any], also: str = "") -> Any:
    """Return `factory(*args, **kwargs)`, its arguments checked against its signature.

    An int is accepted as a float and a list as a tuple. `also` is appended to the
    signature in messages.

    Raises:
      ValueError: an argument is missing, unknown, or of a type or value that the
        factory does not take; the message names the op and its signature.
    """
    signature = inspect.signature(factory)
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]
    shown = f"it is called as {call.name}{inspect.Signature(bare)}{also}"
    try:
        bound = signature.bind(*call.args, **call.kwargs)
    except TypeError as e:
        raise ValueError(f"op {call.text!r}: {e}; {shown}") from None
    hints = hints_of(factory)
    for name, value in bound.arguments.items():
        hint = hints.get(name, Any)
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            hint = tuple[hint, ...]
        try:
            bound.arguments[name] = fit(value, hint)
        except TypeError:
            raise ValueError(
                f"op {call.text!r}: {name} cannot be {value!r}; {shown}"
            ) from None
    try:
        return factory(*bound.args, **bound.kwargs)
    except ValueError as e:
        raise ValueError(f"op {call.text!r}: {e}; {shown}") from None


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's or class's parameters.

    Returns {} if they cannot be read, as of a name that its module does not import.
    """
    try:
        made = function.__init__ if inspect.isclass(function) else function
        return typing.get_type_hints(made)
    except (NameError, TypeError):
        return {}


def build_keyed(call: OpCall, factory: Callable[..., Any]) -> tuple[Any, str, str]:
    """Build an op on one feature: (function, feature read, feature written).

    In addition to the factory's arguments, such an op takes inkey and outkey, "image"
    unless given, and key, which stands for both.
    """
    named = {k: v for k, v in call.kwargs.items() if k in ("inkey", "outkey", "key")}
    other = {k: v for k, v in call.kwargs.items() if k not in named}
    inkey, outkey = build(call._replace(args=(), kwargs=named), _in_and_out)
    also = ", besides inkey='image', outkey='image' and key=None"
    return build(call._replace(kwargs=other), factory, also), inkey, outkey


def _in_and_out(
    inkey: str = "image", outkey: str = "image", key: str | None = None
) -> tuple[str, str]:
    return key or inkey, key or outkey


def fit(value: Any, hint: Any) -> Any:
    """Return the value as the type of an annotation, or raise TypeError.

    Only the annotations of ops and sources are known. A path is accepted as a string,
    and a list as a tuple or a sequence, but a bool is not accepted as a number.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for choice in inner:
            with contextlib.suppress(TypeError):
                return fit(value, choice)
    elif origin is typing.Literal:
        if any(type(value) is type(choice) and value == choice for choice in inner):
            return value
    elif origin in (tuple, Sequence) and isinstance(value, tuple | list):
        alike = origin is Sequence or inner[-1] is Ellipsis
        hints = [inner[0]] * len(value) if alike else inner
        if len(hints) == len(value):
            return tuple(map(fit, value, hints))
    elif hint is Any:
        return value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif (
        (hint is str and isinstance(value, str | os.PathLike))
        or type(value) is hint
        or (value is None and hint is type(None))
    ):
        return value
    raise TypeError
