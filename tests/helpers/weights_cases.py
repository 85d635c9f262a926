"""Small models for the tests of weights, with parameters that no mistake leaves alone."""

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from vitjax import weights
from vitjax.models import vit
from vitjax.trees import flatten_with_names

WIDTH, HEADS, CLASSES = 24, 3, 5
SQUARE, WIDE = (3, 3), (2, 3)
# Sizes of which no two are equal that could be mistaken for each other.
SIZES = {"width": WIDTH, "depth": 2, "mlp_dim": 40, "num_heads": HEADS}


def model(patch_size=(4, 4), dtype="float32", **kw):
    return vit.Model(CLASSES, **SIZES, patch_size=patch_size, dtype_mm=dtype, **kw)


def params(grid=SQUARE, dtype=np.float32, seed=0, patch_size=(4, 4), **kw):
    """Random parameters of `model`, none zero or one, in numpy."""
    rng = np.random.default_rng(seed)
    (rows, columns), (ph, pw) = grid, patch_size
    image = jax.ShapeDtypeStruct((1, rows * ph, columns * pw, 3), np.float32)
    made = model(patch_size, **kw)
    shapes = jax.eval_shape(lambda x: made.init(jax.random.key(0), x)["params"], image)
    leaves = {}
    for name, leaf in flatten_with_names(shapes):
        value = rng.standard_normal(leaf.shape)
        if name.endswith("/scale"):
            value = 1 + 0.1 * value
        elif name.endswith("/kernel"):
            value /= np.sqrt(WIDTH)
        leaves[name] = value.astype(dtype)
    return unflatten_dict(leaves, sep="/")


def image(grid=SQUARE, patch_size=(4, 4)):
    """Two images (2, h, w, 3) in float64."""
    rng = np.random.default_rng(1)
    size = [g * p for g, p in zip(grid, patch_size, strict=True)]
    return rng.uniform(-1, 1, (2, *size, 3))


def logits(tree, image, **kw):
    """vitjax's own logits in float64."""
    with jax.enable_x64(True):
        made = model(dtype="float64", **kw)
        return np.asarray(
            jax.jit(lambda p, x: made.apply({"params": p}, x)[0])(tree, image)
        )


def assert_same_bits(a, b):
    """Two trees, or dicts, of equal names, dtypes, shapes and bytes."""
    a, b = (dict(flatten_with_names(x)) for x in (a, b))
    assert a.keys() == b.keys()
    for name, x in a.items():
        y = b[name]
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes(), name


# (format, arguments of the model, what to say besides): each option that a format has.
EXPRESSIBLE = [
    ("mup_vit", {"posemb": "learn"}, {}),
    ("mup_vit", {"posemb": "sincos2d"}, {"posemb": "sincos2d", "grid": SQUARE}),
    ("mup_vit", {"posemb": "learn", "rep_size": 7}, {}),
    ("mup_vit", {"posemb": "none"}, {"posemb": "none"}),
    ("mup_vit", {"posemb": "learn", "pool_type": "tok"}, {"pool_type": "tok"}),
    ("mup_vit", {"posemb": "learn", "pool_type": "tok", "registers": 2},
     {"pool_type": "tok"}),
    ("mup_vit", {"posemb": "sincos2d", "registers": 2},
     {"posemb": "sincos2d", "grid": SQUARE, "pool_type": "gap"}),
    ("torchvision", {"posemb": "learn", "pool_type": "tok"}, {}),
    ("torchvision", {"posemb": "learn", "pool_type": "tok", "rep_size": 7}, {}),
    (
        "torchvision",
        {"posemb": "sincos2d", "pool_type": "tok"},
        {"posemb": "sincos2d", "grid": SQUARE},
    ),
    ("timm", {"posemb": "learn"}, {}),
    ("timm", {"posemb": "sincos2d"}, {"posemb": "sincos2d", "grid": SQUARE}),
    ("timm", {"posemb": "none"}, {"posemb": "none"}),
    ("timm", {"posemb": "learn", "pool_type": "tok"}, {}),
    ("timm", {"posemb": "learn", "pool_type": "tok", "registers": 2}, {}),
    ("timm", {"posemb": "learn", "registers": 4}, {}),
    ("timm", {"posemb": "learn", "pool_type": "map"}, {}),
    ("timm", {"posemb": "sincos2d", "pool_type": "map", "registers": 2},
     {"posemb": "sincos2d", "grid": SQUARE}),
    ("timm", {"posemb": "learn", "pool_type": "tok", "layer_scale": 1e-5}, {}),
    ("timm", {"posemb": "learn", "registers": 4, "norm_after_pool": True}, {}),
    ("timm", {"posemb": "learn", "pool_type": "map", "pre_norm": True}, {}),
    ("timm", {"posemb": "learn", "pool_type": "tok", "registers": 1,
      "distilled": True}, {}),
    ("huggingface", {"posemb": "learn", "pool_type": "tok"}, {}),
    (
        "huggingface",
        {"posemb": "sincos2d", "pool_type": "tok"},
        {"posemb": "sincos2d", "grid": SQUARE},
    ),
]  # fmt: skip


def label(value):
    """A test id."""
    if isinstance(value, dict):
        return ",".join(str(v) for v in value.values()).replace(" ", "") or "-"
    return str(value)


def write(params, form, say):
    """to_state_dict with what it has to be told."""
    told = {k: v for k, v in say.items() if k != "pool_type"}
    return weights.to_state_dict(params, format=form, **told)


def pool(say):
    """What of it no file tells."""
    return {k: v for k, v in say.items() if k == "pool_type"}


def read(state, form, say, **kw):
    """from_state_dict with the heads that no table of variants knows."""
    return weights.from_state_dict(state, format=form, num_heads=HEADS, **say, **kw)
