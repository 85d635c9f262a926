"""Find products of floats that are added to something, in a program of JAX."""

import jax.numpy as jnp
from jax.extend import core

ADDS = ("add", "sub", "add_any", "reduce_sum", "cumsum", "scatter-add", "scatter_add")


def added_products(closed):
    """The additions of a jaxpr whose operand is a product of floats, or comes from one.

    The second is more than a compiler can contract; only integers end the descent. A
    product of matrices does not count: its operands are zeros and ones.
    """
    found = []
    _walk(closed.jaxpr, [False] * len(closed.jaxpr.invars), found)
    return found


def _is_float(var):
    return jnp.issubdtype(var.aval.dtype, jnp.floating)


def inner(equation):
    """The jaxprs of an equation's parameters."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one


def _walk(jaxpr, given, found):
    """Return which results come from a product, if the `given` operands do."""
    products = {v for v, is_one in zip(jaxpr.invars, given, strict=True) if is_one}

    def is_product(var):
        return not isinstance(var, core.Literal) and var in products

    for equation in jaxpr.eqns:
        name, outs = equation.primitive.name, equation.outvars
        operands = list(map(is_product, equation.invars))
        if any(operands) and name in ADDS and any(map(_is_float, outs)):
            found.append(str(equation))
        made = name in ("mul", "div") or any(operands)
        results = [made and _is_float(v) for v in outs]
        bodies = list(inner(equation))
        if bodies:
            results = [False] * len(outs)
        for one in bodies:
            # The operands of a loop's body are its last; a carried one comes round.
            some = operands[len(operands) - len(one.invars) :]
            for _ in range(2 if name in ("while", "scan") else 1):
                after = _walk(one, some, found)
                if len(after) == len(outs):
                    results = [a or b for a, b in zip(results, after, strict=True)]
                    first = equation.params.get("num_consts", len(some) - len(after))
                    carried = equation.params.get("num_carry", len(after))
                    for i, is_one in enumerate(after[:carried]):
                        some[first + i] = some[first + i] or is_one
        products |= {v for v, is_one in zip(outs, results, strict=True) if is_one}
    return [is_product(v) for v in jaxpr.outvars]
