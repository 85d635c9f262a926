"""Read `like('NAME', key=value)` in an override: a copy of a section, with changes."""

import ast
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from vitjax.config import arguments


def is_like(text: str) -> bool:
    """Return whether an override's value asks for a copy of another section."""
    return text.lstrip().startswith("like(")


def read_like(
    text: str, parent: ConfigDict, where: str
) -> tuple[ConfigDict, Mapping[str, Any]]:
    """Return (a copy of the section of `parent` that `text` names, the changed keys).

    Args:
      text: "like('NAME', key=value, ...)", its values Python literals.
      parent: the section that has NAME.
      where: the dotted name of `parent`, "" for the whole config.

    Raises ValueError if `text` is anything else, or if NAME is not a section.
    """
    call = _parsed(text)
    [name] = call.args
    name = ast.literal_eval(name)
    sections = {k: x for k, x in parent.items() if isinstance(x, ConfigDict)}
    if name not in sections:
        what = f"section of {where}" if where else "section"
        raise arguments.unknown(name, sections, f"{what} in {text}:")
    changes = {}
    for keyword in call.keywords:
        try:
            changes[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise ValueError(
                f"cannot read {keyword.arg} in {text}: expected a Python literal, such as "
                "3, 'text' or {'key': 1}"
            ) from None
    return ConfigDict(sections[name].to_dict()), changes


def _parsed(text: str) -> ast.Call:
    """Parse the call. Raises ValueError unless it is like('NAME', key=value, ...)."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        call = None
    if (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and len(call.args) == 1
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
        and all(keyword.arg for keyword in call.keywords)
    ):
        return call
    raise ValueError(
        f"cannot read {text}: expected like('NAME', key=value), with the name of a "
        "section beside this one in quotes"
    )
