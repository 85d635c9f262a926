"""Small models for the tests of weights, with parameters that no mistake leaves alone."""

import functools

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from vitjax import weights
from vitjax.models import vit
from vitjax.trees import flatten_with_names
from vitjax.weights import files

WIDTH, HEADS, CLASSES = 24, 3, 5
SQUARE, WIDE = (3, 3), (2, 3)
# No two sizes that could be mistaken for each other are equal.
SIZES = {"width": WIDTH, "depth": 2, "mlp_dim": 40, "num_heads": HEADS}
TOK = {"posemb": "learn", "pool_type": "tok"}
SINCOS = {"posemb": "sincos2d", "grid": SQUARE}


def model(patch_size=(4, 4), dtype="float32", **kw):
    return vit.Model(CLASSES, **SIZES, patch_size=patch_size, dtype_mm=dtype, **kw)


@functools.cache
def _shapes(grid, patch_size, **kw):
    size = [g * p for g, p in zip(grid, patch_size, strict=True)]
    image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    made = model(patch_size, **kw)
    return jax.eval_shape(lambda x: made.init(jax.random.key(0), x)["params"], image)


def params(grid=SQUARE, dtype=np.float32, seed=0, patch_size=(4, 4), **kw):
    """Random parameters of `model`, none zero or one, in numpy."""
    rng = np.random.default_rng(seed)
    leaves = {}
    for name, leaf in flatten_with_names(_shapes(grid, patch_size, **kw)):
        value = rng.standard_normal(leaf.shape)
        if name.endswith("/scale"):
            value = 1 + 0.1 * value
        elif name.endswith("/kernel"):
            value /= np.sqrt(WIDTH)
        leaves[name] = value.astype(dtype)
    return unflatten_dict(leaves, sep="/")


def stored(path, form=None, say=(), **kw):
    """A small model's parameters as a file."""
    tree = params(**kw)
    leaves = dict(flatten_with_names(tree))
    if form is not None:
        leaves = weights.to_state_dict(tree, format=form, **dict(say))
    files.write(path, leaves, {})
    return path


def image(grid=SQUARE, patch_size=(4, 4)):
    """Two images (2, h, w, 3) in float64."""
    rng = np.random.default_rng(1)
    size = [g * p for g, p in zip(grid, patch_size, strict=True)]
    return rng.uniform(-1, 1, (2, *size, 3))


@functools.cache
def _program(**kw):
    made = model(dtype="float64", **kw)
    return jax.jit(lambda params, image: made.apply({"params": params}, image)[0])


def logits(tree, image, **kw):
    """vitjax's own logits in float64."""
    with jax.enable_x64(True):
        return np.asarray(_program(**kw)(tree, image))


def assert_same_bits(a, b):
    """Two trees, or dicts, of equal names, dtypes, shapes and bytes."""
    a, b = (dict(flatten_with_names(x)) for x in (a, b))
    assert a.keys() == b.keys()
    for name, x in a.items():
        y = b[name]
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes(), name


# (format, arguments of our model, arguments of the conversion, arguments of the other
# library's class): each option that a format can express.
GAP = {"class_token": False, "global_pool": "avg"}
MAP = {"class_token": False, "global_pool": "map"}
EXPRESSIBLE = [
    ("mup_vit", {"posemb": "sincos2d"}, SINCOS, {}),
    ("mup_vit", {"posemb": "learn", "rep_size": 7}, {}, {}),
    ("mup_vit", {"posemb": "none", "registers": 1},
     {"posemb": "none", "pool_type": "gap"}, {}),
    ("mup_vit", {"posemb": "sincos2d", "registers": 3, "rep_size": 7},
     SINCOS | {"pool_type": "gap"}, {}),
    ("mup_vit", TOK, {"pool_type": "tok"}, {}),
    ("mup_vit", {"posemb": "sincos2d", "pool_type": "tok", "registers": 2},
     SINCOS | {"pool_type": "tok"}, {}),
    ("torchvision", TOK, {}, {}),
    ("torchvision", TOK | {"rep_size": 7}, {}, {"representation_size": 7}),
    ("torchvision", TOK | {"posemb": "sincos2d"}, SINCOS, {}),
    ("timm", TOK, {}, {}),
    ("timm", {"posemb": "learn"}, {}, GAP),
    ("timm", {"posemb": "sincos2d"}, SINCOS, GAP),
    ("timm", {"posemb": "none"}, {"posemb": "none"}, GAP | {"pos_embed": "none"}),
    ("timm", {"posemb": "learn", "pool_type": "map"}, {}, MAP),
    ("timm", {"posemb": "sincos2d", "pool_type": "map", "registers": 2}, SINCOS,
     MAP | {"reg_tokens": 2, "no_embed_class": True}),
    # DINOv2 with registers.
    ("timm", TOK | {"layer_scale": 1e-5, "registers": 2}, {},
     {"init_values": 1e-5, "reg_tokens": 2, "no_embed_class": True}),
    # vit_*_reg4_gap_256.
    ("timm", {"posemb": "learn", "registers": 4, "norm_after_pool": True}, {},
     GAP | {"reg_tokens": 4, "no_embed_class": True, "fc_norm": None}),
    ("timm", TOK | {"pre_norm": True}, {}, {"pre_norm": True}),
    ("timm", TOK | {"registers": 1, "distilled": True}, {}, {"distilled": True}),
    ("huggingface", TOK, {}, {}),
    ("huggingface", TOK | {"posemb": "sincos2d"}, SINCOS, {}),
]  # fmt: skip


def label(value):
    """A test id."""
    if isinstance(value, dict):
        return ",".join(str(v) for v in value.values()).replace(" ", "") or "-"
    return str(value)


def write(params, form, say):
    """to_state_dict with the arguments that it needs."""
    say = {k: v for k, v in say.items() if k != "pool_type"}
    return weights.to_state_dict(params, format=form, **say)


def pool(say):
    """The one argument that no file contains."""
    return {k: v for k, v in say.items() if k == "pool_type"}


def read(state, form, say, **kw):
    """from_state_dict with the heads, which no table of variants knows."""
    return weights.from_state_dict(state, format=form, num_heads=HEADS, **say, **kw)
