"""The op language: "decode|flip_lr|randaug(2, 10)|keep('image', 'labels')".

Ops are separated by "|"; arguments are Python literals, read with `ast` and never
evaluated. Host ops (ops.py) and device ops (device_ops.py) share this file, which
therefore needs neither TensorFlow nor JAX.
"""

import ast
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

# What reading a hostile string with `ast` can raise: deep nesting, null bytes, huge
# numbers, unhashable keys.
_AST_ERRORS = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


class OpCall(NamedTuple):
    """One op of a spec: its name, its arguments, and its text for messages."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    text: str


def parse(spec: str) -> list[OpCall]:
    """Read a spec into its ops; "" holds none.

    Raises:
      ValueError: naming the position and the text of the op that cannot be read.
    """
    if not isinstance(spec, str):
        raise ValueError(f"a preprocessing spec is a string, got {spec!r}")
    if not spec.strip():
        return []
    return [
        _parse_op(text.strip(), position)
        for position, text in enumerate(_split(spec), start=1)
    ]


def _split(spec: str) -> list[str]:
    """Cut at every "|" outside quotes."""
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


def _parse_op(text: str, position: int) -> OpCall:
    where = f"op {position} of the spec, {text!r},"
    if not text:
        raise ValueError(f"op {position} of the spec is empty: remove one '|'")
    try:
        node = ast.parse(text, mode="eval").body
    except _AST_ERRORS as e:
        raise ValueError(f"{where} cannot be read: {e}") from None
    if isinstance(node, ast.Name):
        return OpCall(node.id, (), {}, text)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise ValueError(f"{where} is not of the form name or name(arguments)")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"{where} unpacks with **: write the arguments out")
    try:
        args = tuple(ast.literal_eval(arg) for arg in node.args)
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except _AST_ERRORS:
        raise ValueError(
            f"{where} has an argument that is not a literal (a number, a string, a "
            "tuple, True, None, ...)"
        ) from None
    return OpCall(node.func.id, args, kwargs, text)


def unknown_op(call: OpCall, known: Iterable[str], where: str) -> ValueError:
    """The error for an op that the table of `where` ("host", "device") lacks."""
    known = sorted(known)
    near = difflib.get_close_matches(call.name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"unknown {where} op {call.name!r} in {call.text!r}{hint} "
        f"(known: {', '.join(known)})"
    )


def build(call: OpCall, factory: Callable[..., Any]) -> Any:
    """`factory(*args, **kwargs)`, its arguments checked against its signature.

    Raises:
      ValueError: naming the op and its signature, when an argument is missing,
        unknown, or of a type or value that the factory does not take.
    """
    signature = inspect.signature(factory)
    shown = f"{call.name}{_show(signature)}"
    try:
        bound = signature.bind(*call.args, **call.kwargs)
    except TypeError as e:
        raise ValueError(f"op {call.text!r}: {e}; it is called as {shown}") from None
    hints = typing.get_type_hints(factory)
    for name, value in bound.arguments.items():
        many = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for item in value if many else [value]:
            if name in hints and not _fits(item, hints[name]):
                raise ValueError(
                    f"op {call.text!r}: {name} cannot be {item!r}; it is called as "
                    f"{shown}"
                )
    try:
        return factory(*call.args, **call.kwargs)
    except ValueError as e:
        raise ValueError(f"op {call.text!r}: {e}; it is called as {shown}") from None


def _show(signature: inspect.Signature) -> str:
    """The signature as a user writes it: names and defaults."""
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]
    return str(inspect.Signature(bare))


def _fits(value: Any, hint: Any) -> bool:
    """Whether a literal has the type that a factory's annotation asks for.

    An int serves as a float and a list as a tuple; a bool does not serve as a number.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, choice) for choice in inner)
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint or (value is None and hint is type(None))
