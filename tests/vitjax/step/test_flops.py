"""Operations of a forward pass, by hand and by XLA's own count."""

import jax
import numpy as np
import pytest

from vitjax import step
from vitjax.models import MODELS
from vitjax.step.flops import forward_flops


def flops(image_shape, name="vit", num_classes=1000, **model):
    built = MODELS[name](num_classes, **model)
    return forward_flops(built, step.param_shapes(built, image_shape), image_shape)


@pytest.mark.parametrize(
    ("options", "more", "pooled"),
    [
        ({}, 0, 0),
        ({"pool_type": "tok"}, 1, 0),
        ({"pool_type": "tok", "registers": 4}, 5, 0),
        ({"scan": True, "remat_policy": "nothing_saveable"}, 0, 0),
        ({"rep_size": True}, 0, 2 * 384 * 384),
        # A library's attention has no products in the program.
        ({"attn_impl": "xla"}, 0, 0),
    ],
    ids=str,
)
def test_known_flops_of_s16(options, more, pooled):
    """Per token and block 24 d^2, and 4 n d for attention; patches have no class token."""
    patches, d = 196, 384
    n = patches + more
    by_hand = 12 * n * (24 * d * d + 4 * n * d) + 2 * patches * 768 * d + 2 * d * 1000
    assert flops((224, 224, 3), variant="S/16", **options) == by_hand + pooled
    assert 9.1e9 < by_hand < 9.7e9  # 4.6 G multiply-adds, as published


def test_map_pooling_asks_once():
    """Keys and values of all tokens, all else of one query."""
    n, d = 4, 64
    sizes = {"variant": "mu/16", "width": d, "mlp_dim": 4 * d, "num_heads": 1}
    gap, pooled = (
        flops((32, 32, 3), pool_type=kind, **sizes) for kind in ("gap", "map")
    )
    head = 2 * n * 2 * d * d + 2 * 2 * d * d + 4 * n * d + 16 * d * d
    assert pooled - gap == head


@pytest.mark.parametrize(
    ("name", "image_shape", "model"),
    [
        ("vit", (224, 224, 3), {"variant": "S/16", "rep_size": True}),
        ("small_cnn", (28, 28, 1), {}),
        ("nanovit", (32, 32, 3), {}),
    ],
    ids=str,
)
def test_xla_counts_a_little_more(name, image_shape, model):
    """Norms, activations and softmax: ours is 80 to 100 % of its figure."""
    built = MODELS[name](1000, **model)
    params = step.param_shapes(built, image_shape)
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    logits = jax.jit(lambda p, x: built.apply({"params": p}, x)[0])
    counted = logits.lower(params, image).cost_analysis()["flops"]
    assert 0.8 < forward_flops(built, params, image_shape) / counted <= 1.0
