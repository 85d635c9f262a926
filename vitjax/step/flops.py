"""Count the floating-point operations of a model, from its jaxpr."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var, jaxprs_in_params


def forward_flops(model: Any, params: Any, image_shape: tuple[int, ...]) -> float:
    """Return the operations of the forward pass of one image; a multiply-add counts 2.

    As in papers, all matrix products and convolutions count, including attention's;
    norms, GELU and softmax do not. `params` may be shapes. A backward pass takes twice
    as many operations. Remat adds those that it recomputes.
    """
    if getattr(model, "attn_impl", "flax") != "flax":  # libraries hide their products
        model = model.clone(attn_impl="flax")
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    program = jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x, train=False)[0])
    return float(_count(program(params, image).jaxpr))


def _count(jaxpr: Any) -> int:
    total = 0
    # Backwards, to leave out unused results, such as the logits of the patches.
    needed = {v for v in jaxpr.outvars if isinstance(v, Var)}
    for eqn in reversed(jaxpr.eqns):
        if needed.isdisjoint(eqn.outvars):
            continue
        needed.update(v for v in eqn.invars if isinstance(v, Var))
        kind, params = eqn.primitive.name, eqn.params
        if kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += (
                2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
            )
        elif kind == "conv_general_dilated":
            kernel = eqn.invars[1].aval
            outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * eqn.outvars[0].aval.size * (kernel.size // outputs)
        else:
            times = params["length"] if kind == "scan" else 1
            total += times * sum(map(_count, jaxprs_in_params(params)))
    return total
