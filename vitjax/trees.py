"""Trees whose leaves have names: "Transformer/encoder_norm/scale"."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten_with_names(tree: Any) -> list[tuple[str, Any]]:
    """The leaves in JAX's order, each with its name "a/b/c".

    Dicts and FrozenDicts contribute keys, dataclasses and named tuples field names,
    lists and tuples positions.
    """
    return [
        (_name(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def map_with_names(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`fn(name, leaf, *leaves of rest)` over trees of one structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(_name(path), *leaves), tree, *rest
    )


def regex(pattern: str, what: str) -> re.Pattern[str]:
    """The compiled pattern; a ValueError, in which `what` names it, if it is none."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(
            f"{what}: {pattern!r} is not a regular expression ({error})"
        ) from None


def match_patterns(
    tree: Any, patterns: Sequence[str], *, strict: bool = False, what: str = "patterns"
) -> list[Any]:
    """One tree of bools per pattern: True where it is the first that matches the name.

    A pattern is a regular expression that must match the whole name. Under `strict`,
    a leaf that no pattern matches is a ValueError; `what` names the patterns in errors.
    """
    compiled = [regex(pattern, what) for pattern in patterns]

    def first_match(name: str, _: Any) -> int:
        hits = (i for i, one in enumerate(compiled) if one.fullmatch(name))
        return next(hits, -1)

    first = map_with_names(first_match, tree)
    missed = [name for name, i in flatten_with_names(first) if i < 0]
    if strict and missed:
        more = f" and {len(missed) - 5} more" if len(missed) > 5 else ""
        raise ValueError(
            f"{what} must cover every parameter, but {list(patterns)} leaves out "
            f'{", ".join(missed[:5])}{more}; add a last pattern ".*" for the rest'
        )
    return [
        jax.tree.map(lambda i, n=n: i == n, first)  # n is bound now, not at the call
        for n in range(len(compiled))
    ]


def count(tree: Any) -> int:
    """The number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
