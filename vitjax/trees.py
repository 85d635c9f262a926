"""Functions on trees with named leaves, such as "Transformer/encoder_norm/scale"."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten_with_names(tree: Any) -> list[tuple[str, Any]]:
    """Return (name, leaf) of each leaf in JAX's order; a name reads "a/b/c".

    The parts of a name are the keys of dicts and FrozenDicts, the field names of
    dataclasses and named tuples, and the positions in lists and tuples.
    """
    return [
        (_name(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def map_with_names(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Map `fn(name, leaf, *leaves of rest)` over trees of one structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(_name(path), *leaves), tree, *rest
    )


def regex(pattern: str, what: str) -> re.Pattern[str]:
    """Compile the pattern. Raises ValueError, which names `what`, if it is invalid."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(
            f"{what}: {pattern!r} is not a regular expression ({error})"
        ) from None


def match_patterns(
    tree: Any, patterns: Sequence[str], *, strict: bool = False, what: str = "patterns"
) -> list[Any]:
    """Return one tree of bools per pattern: True where it is the leaf's first match.

    A pattern is a regular expression that must match the whole name of the leaf. With
    `strict`, raises ValueError if no pattern matches a leaf. `what` names the patterns
    in errors.
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
        jax.tree.map(lambda i, n=n: i == n, first)  # bind n now, not at the call
        for n in range(len(compiled))
    ]


def count(tree: Any) -> int:
    """Return the number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
