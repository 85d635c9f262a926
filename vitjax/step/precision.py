"""The precision of float32 matrix products while a program is traced."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

F = TypeVar("F", bound=Callable[..., Any])

# JAX's names -> what they are, on NVIDIA and on a TPU. A CPU always has float32. Operands
# of bfloat16 and float16 are multiplied as they are.
PRECISIONS = {
    "highest": ("float32", "6 passes of bfloat16"),
    "high": ("TF32", "3 passes of bfloat16"),
    "default": ("TF32", "1 pass of bfloat16"),
}


def at_precision(precision: str | None, function: F) -> F:
    """Return `function`, traced with this precision of products and convolutions.

    None leaves the program as it is without this.
    """
    if precision is None:
        return function

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    wrapped: Any = traced
    return wrapped
