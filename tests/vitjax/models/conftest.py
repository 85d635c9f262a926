"""Parameters for model tests in which every parameter matters."""

import jax
import numpy as np
import pytest


@pytest.fixture
def random_params():
    """A function (model, image) -> float32 params: all random, none at its init."""

    def make(model, image):
        rng = np.random.default_rng(7)
        shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]

        def draw(path, leaf):
            name = jax.tree_util.keystr(path)
            fan_in = leaf.size // leaf.shape[-1] if "kernel" in name else 4
            offset = 1.0 if "scale" in name else 0.0
            draws = rng.normal(size=leaf.shape) / np.sqrt(fan_in) + offset
            return draws.astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(draw, shapes)

    return make
