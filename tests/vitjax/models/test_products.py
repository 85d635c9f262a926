"""The forms of vitjax.models.products against flax's own layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import products

D, SPLIT = 24, (3, 8)
KEY = jax.random.key(0)


@pytest.fixture
def x():
    return 3 + 2 * jax.random.normal(KEY, (2, 5, D))


def linear(inputs, features, name="layer"):
    inits = (nn.initializers.xavier_uniform(), nn.initializers.normal(0.1))
    return products.Linear(inputs, features, *inits, name=name)


def dense(features, axis=-1):
    return nn.DenseGeneral(
        features,
        axis=axis,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.normal(0.1),
    )


@pytest.mark.parametrize(("inputs", "features"), [((D,), SPLIT), (SPLIT, (D,))])
def test_the_parameters_are_those_of_flax_to_the_bit(inputs, features):
    ours = linear(inputs, features).init(KEY)["params"]
    axis = tuple(range(-len(inputs), 0))
    theirs = dense(features, axis).init(KEY, jnp.ones((2, *inputs)))["params"]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def close(a, b):
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(b))
    check = lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6 * largest)
    jax.tree.map(check, a, b)


def test_a_folded_norm_is_a_layer_norm_before_a_product(x):
    """Values and all gradients, with a scale that is nowhere near one."""
    norm = nn.LayerNorm(epsilon=1e-6)
    layer = dense((D,))
    scale = jax.random.normal(KEY, (D,)).at[0].set(0.0)
    params = {
        "norm": {"scale": scale, "bias": jnp.arange(D) / D},
        "layer": layer.init(KEY, x)["params"],
    }

    def plain(params, x):
        y = norm.apply({"params": params["norm"]}, x)
        return jnp.sin(layer.apply({"params": params["layer"]}, y)).sum()

    def folded(params, x):
        y, affine = products.Norm(1e-6).apply({"params": params["norm"]}, x)
        matrix = linear((D,), (D,)).apply({"params": params["layer"]})
        return jnp.sin(products.apply(y, affine.folded(matrix), jnp.float32)).sum()

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, (0, 1)))(params, x) for f in (folded, plain)
    )
    close(ours, theirs)


@pytest.mark.parametrize("apart", [True, False])
def test_three_products_at_once(x, apart):
    keys = jax.random.split(KEY, 3)
    params = [dense((D,)).init(key, x)["params"] for key in keys]

    def alone(params, x):
        found = [dense((D,)).apply({"params": p}, x) for p in params]
        return sum((i + 1) * jnp.sin(y).sum() for i, y in enumerate(found))

    def at_once(params, x):
        matrices = [products.Matrix(p["kernel"], p["bias"]) for p in params]
        found = products.apply_three(x, matrices, jnp.float32, apart=apart)
        return sum((i + 1) * jnp.sin(y).sum() for i, y in enumerate(found))

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, (0, 1)))(params, x) for f in (at_once, alone)
    )
    close(ours, theirs)


def test_patches_are_those_of_a_convolution():
    image = jax.random.normal(KEY, (2, 13, 9, 3))  # a row and a column too many
    conv = nn.Conv(7, (4, 2), strides=(4, 2), padding="VALID")
    params = conv.init(KEY, image)["params"]
    rows = products.patches(image, (4, 2))
    matrix = products.Matrix(params["kernel"].reshape(-1, 7), params["bias"])
    ours = products.apply(rows, matrix, jnp.float32).reshape(2, 3, 4, 7)
    close(ours, conv.apply({"params": params}, image))


def test_only_the_input_is_kept_for_the_backward_pass(x):
    gelu = products.recomputed(nn.gelu)
    close(gelu(x), nn.gelu(x))
    assert kept(gelu, x) == x.size < kept(nn.gelu, x)


def kept(function, x):
    backward = jax.eval_shape(lambda x: jax.vjp(function, x)[1], x)
    return sum(leaf.size for leaf in jax.tree.leaves(backward))


def test_rows_are_added(x):
    np.testing.assert_array_equal(products.added(x, 2 * x), x + 2 * x)
