"""The ViT's numbers: against flax, by hand, and against its own other forms.

`python -m parity` compares every stage and gradient with a reference in torch: all
position embeddings, poolings by gap, tok and map, heads, registers and GELUs, in
float64, float32 and bfloat16.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from vitjax.models.vit import Attention, BlockConfig, MlpBlock, Model, loop_to_scan

KEY = jax.random.key(0, impl="rbg")  # compiles faster than the default
TINY = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": (4, 2)}
F32, BF16, F64 = np.dtype(np.float32), np.dtype(jnp.bfloat16), np.dtype(np.float64)
OPTIONS = {
    "pool_type": "tok",
    "registers": 2,
    "layer_scale": 0.1,
    "pre_norm": True,
    "norm_after_pool": True,
    "distilled": True,
}


@pytest.fixture(scope="module")
def image():
    """Three images whose grid is 2 x 3."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (3, 8, 6, 3)).astype(np.float32)


@pytest.mark.parametrize("pool_type", ["gap", "tok", "0", "none"])
def test_the_heads_outputs_are_those_of_its_tokens(image, random_params, pool_type):
    """A linear head: logits_2d of each patch, logits of the mean, a token, each patch."""
    kw = {"pool_type": pool_type, "registers": 1, **TINY}
    model = Model(5, **kw)
    params = random_params(model, image)
    logits, out = jax.jit(model.apply)({"params": params}, image)
    head = params["head"]
    of_tokens = np.asarray(out["encoded"]) @ head["kernel"] + head["bias"]
    first = int(pool_type == "tok")
    patches = of_tokens[:, first : first + 6]
    expected = {"gap": patches.mean(1), "none": patches}
    np.testing.assert_allclose(
        logits, expected.get(pool_type, of_tokens[:, 0]), atol=1e-6
    )
    np.testing.assert_allclose(out["logits_2d"], patches.reshape(3, 2, 3, 5), atol=1e-6)
    np.testing.assert_array_equal(out["logits"], logits)


@pytest.mark.parametrize(
    ("pool_type", "scan"), [("tok", False), ("map", True)], ids=str
)
def test_x64_alone_changes_no_dtype(image, pool_type, scan):
    kw = {"registers": 1, "dropout": 0.1, "drop_path": 0.1}
    model = Model(5, pool_type=pool_type, scan=scan, **kw, **TINY)

    def train(params, image, key):
        return model.apply({"params": params}, image, train=True, rngs={"dropout": key})

    with jax.enable_x64(True):
        params = jax.eval_shape(model.init, KEY, image)["params"]
        out = jax.eval_shape(train, params, image, KEY)
    assert {x.dtype for x in jax.tree.leaves((params, out))} == {F32}


# The dtypes that are stored, that compute, and that come out.


@pytest.mark.parametrize(
    ("upstream", "pool_type", "scan"),
    [(False, "map", False), (False, "tok", True), (True, "map", True), (True, "tok", False)],
)  # fmt: skip
def test_bfloat16_dtypes(image, upstream, pool_type, scan):
    """`upstream`: all of it in bfloat16, as big_vision has it."""
    kw = {"pool_type": pool_type, "rep_size": True, "scan": scan, "return_attn": True}
    if upstream:
        kw |= {"residual_dtype": "bfloat16", "softmax_dtype": "bfloat16"}
    model = Model(5, dtype_mm="bfloat16", **kw, **TINY)
    shapes, params = jax.eval_shape(model.init_with_output, KEY, image)
    assert {x.dtype for x in jax.tree.leaves(params)} == {F32}
    stream = BF16 if upstream else F32
    block = {"sa": BF16, "attn": BF16, "+sa": stream, "mlp": BF16, "+mlp": stream}
    names = ("encoded", "pre_logits", "pre_logits_2d", "logits", "logits_2d")
    expected = dict.fromkeys(names, F32) | {
        "stem": BF16,
        "with_posemb": stream,
        "encoder": {"block00": block, "block01": block},
        "head_input": stream if pool_type == "map" else F32,
    }
    if not scan:
        expected["encoder"]["pre_ln"] = stream
    assert jax.tree.map(lambda x: x.dtype, shapes[1]) == expected
    assert shapes[0].dtype == F32


@pytest.mark.parametrize(
    ("dtype_mm", "scan", "kw"),
    [("float32", False, {"pool_type": "map"}), ("bfloat16", True, OPTIONS)],
    ids=["loop", "scan"],
)
def test_the_residual_stream_keeps_its_dtype_in_training(image, dtype_mm, scan, kw):
    kw = {**kw, "residual_dtype": "bfloat16", "dropout": 0.1, "drop_path": 0.1}
    model = Model(5, dtype_mm=dtype_mm, scan=scan, **kw, **TINY)
    params = jax.eval_shape(model.init, KEY, image)["params"]

    def train(params, key):
        return model.apply({"params": params}, image, train=True, rngs={"dropout": key})

    _, out = jax.eval_shape(train, params, KEY)
    blocks = [out["encoder"][f"block{i:02d}"] for i in range(2)]
    stream = [block[name] for block in blocks for name in ("+sa", "+mlp")]
    stream += [out["with_posemb"]]
    stream += [out["head_input"]] if kw["pool_type"] == "map" else []
    assert {x.dtype for x in stream} == {BF16}


def config(**kw):
    defaults = {
        "mlp_dim": None,
        "num_heads": 4,
        "dropout": 0.0,
        "deterministic": True,
        "dtype": F32,
        "residual_dtype": F32,
        "softmax_dtype": F32,
        "gelu": "tanh",
        "attn_impl": "flax",
        "return_attn": False,
    }
    return BlockConfig(**(defaults | kw))


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_attention_equals_flax_to_the_bit(dtype):
    """Parameters from the same key and outputs; bfloat16 softmax is flax's default."""
    x, y = jax.random.normal(KEY, (2, 3, 7, 24))  # sqrt(24 / 4) is no power of two
    theirs = nn.MultiHeadDotProductAttention(
        num_heads=4, kernel_init=nn.initializers.xavier_uniform(), dtype=dtype
    )
    ours = Attention(config(dtype=dtype, softmax_dtype=dtype))
    expected, params = jax.jit(theirs.init_with_output)(KEY, x, y)
    (out, probs), our_params = jax.jit(ours.init_with_output)(KEY, x, y)
    jax.tree.map(np.testing.assert_array_equal, our_params, params)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, expected)
    if dtype == F32:
        p = params["params"]
        q, k = (
            np.einsum("bnd,dhk->bhnk", z, p[n]["kernel"])
            for z, n in ((x, "query"), (y, "key"))
        )
        e = np.exp(q @ k.swapaxes(2, 3) / math.sqrt(6))
        np.testing.assert_allclose(probs, e / e.sum(-1, keepdims=True), atol=1e-6)


def test_softmax_dtype_reaches_the_softmax():
    x = jax.random.normal(KEY, (3, 7, 16))
    params = Attention(config()).init(KEY, x, x)
    exact, probs = Attention(config()).apply(params, x, x)
    half, half_probs = Attention(config(softmax_dtype=BF16)).apply(params, x, x)
    assert half.dtype == half_probs.dtype == F32
    # bfloat16 has 8 bits: off by 2^-9 relative or so, and every value on its grid.
    error = np.abs(half_probs / probs - 1).max()
    assert 1e-3 < error < 3e-2
    np.testing.assert_array_equal(half_probs.astype(BF16).astype(F32), half_probs)
    assert not np.array_equal(exact, half)


# Other ways to run it compute the same.


def loss_and_grads(params, image, **kw):
    model = Model(5, **kw, **TINY)

    def loss(params):
        return jnp.sum(jnp.square(model.apply({"params": params}, image)[0]))

    return jax.jit(jax.value_and_grad(loss))(params)


def test_scan_remat_and_xla_equal_the_plain_loop(image, random_params):
    """Loss and gradients, to some ten roundings of the largest."""
    params = random_params(Model(5, **OPTIONS, **TINY), image)
    loss, grads = loss_and_grads(params, image, **OPTIONS)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    for kw in ({"remat_policy": "dots_saveable"}, {"scan": True}, {"attn_impl": "xla"}):
        change = loop_to_scan if "scan" in kw else lambda tree: tree
        other, found = loss_and_grads(change(params), image, **OPTIONS, **kw)
        np.testing.assert_allclose(other, loss, rtol=1e-6)
        for a, b in zip(
            jax.tree.leaves(found), jax.tree.leaves(change(grads)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-6 * scale, rtol=0, err_msg=str(kw))


def test_scan_gives_the_loops_intermediates_in_float64_throughout(image, random_params):
    kw = {"pool_type": "map", "registers": 1, "return_attn": True}
    model = Model(5, dtype_mm="float64", **kw, **TINY)
    params = random_params(Model(5, **kw, **TINY), image)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, F64), params)
        _, loop = jax.jit(model.apply)({"params": params}, image)
        scanned = {"params": loop_to_scan(params)}
        _, scan = jax.jit(model.clone(scan=True).apply)(scanned, image)
    del loop["encoder"]["pre_ln"]
    assert {x.dtype for x in jax.tree.leaves((loop, scan))} == {F64}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), loop, scan)


@pytest.mark.parametrize(
    ("kw", "remat"),
    [
        ({}, False),
        ({"remat_policy": "nothing_saveable"}, True),
        ({"scan": True}, True),
        ({"scan": True, "remat_policy": "none"}, False),
    ],
)
def test_where_remat_is(image, kw, remat):
    model = Model(5, **kw, **TINY)
    params = jax.eval_shape(model.init, KEY, image)

    def loss(params):
        return jnp.sum(model.apply(params, image)[0])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params)
    # GELU's own remat, without a policy, is always there.
    assert ("policy=<" in str(jaxpr)) == remat


# Dropout and stochastic depth.


def train_apply(model, params, image, key=KEY):
    def apply(params, key):
        return model.apply({"params": params}, image, train=True, rngs={"dropout": key})

    return jax.jit(apply)(params, key)


def test_no_rng_is_needed_when_nothing_drops(image, random_params):
    model = Model(5, **TINY)
    params = {"params": random_params(model, image)}
    apply = jax.jit(model.apply, static_argnames="train")
    still, _ = apply(params, image)
    trained, _ = apply(params, image, train=True)
    np.testing.assert_array_equal(trained, still)
    for kw in ({"dropout": 0.1}, {"drop_path": 0.1}, {"drop_path": 0.1, "scan": True}):
        other = Model(5, **kw, **TINY)
        shapes = jax.eval_shape(other.init, KEY, image)  # as evaluation: no key either
        with pytest.raises(InvalidRngError, match="dropout"):
            jax.eval_shape(lambda p, m=other: m.apply(p, image, train=True), shapes)


@pytest.mark.parametrize("scan", [False, True])
def test_drop_path_drops_whole_branches_on_a_ramp(random_params, scan):
    image = np.random.default_rng(1).normal(size=(96, 4, 4, 3)).astype(np.float32)
    model = Model(5, **{**TINY, "depth": 3}, drop_path=0.5)
    params = random_params(model, image)
    if scan:
        params, model = loop_to_scan(params), model.clone(scan=True)
    _, out = jax.tree.map(np.asarray, train_apply(model, params, image))
    x = out["with_posemb"]
    for i, rate in enumerate([0, 0.25, 0.5]):
        block = out["encoder"][f"block{i:02d}"]
        dropped = []
        for branch in ("sa", "mlp"):
            delta = block[f"+{branch}"] - x
            zero = (delta == 0).all((1, 2))
            survivors = block[branch][~zero] / (1 - rate)
            np.testing.assert_allclose(delta[~zero], survivors, atol=1e-5)
            dropped.append(zero)
            x = block[f"+{branch}"]
        share = np.mean(dropped)
        # 192 draws: three standard deviations are 0.11.
        assert share == 0 if rate == 0 else abs(share - rate) < 0.11
        # The two branches are drawn apart.
        assert rate == 0 or (dropped[0] != dropped[1]).any()


def test_dropout_acts_on_both_branches_of_every_block(image, random_params):
    """The model is scanned, so that blocks could share their masks."""
    model = Model(5, dropout=0.5, **TINY)
    params, model = (
        loop_to_scan(random_params(model, image)),
        model.clone(scan=True),
    )
    logits, out = jax.tree.map(np.asarray, train_apply(model, params, image))
    first, second = (out["encoder"][f"block{i:02d}"] for i in range(2))
    masks = []
    for block, before, branch in (
        (first, first["+sa"], "mlp"),
        (second, first["+mlp"], "sa"),
        (second, second["+sa"], "mlp"),
    ):
        delta = block[f"+{branch}"] - before
        masks.append(delta != 0)
        expected = np.where(masks[-1], 2 * block[branch], 0)
        np.testing.assert_allclose(delta, expected, atol=1e-5)
        assert 0.35 < masks[-1].mean() < 0.65
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.3 < (masks[a] != masks[b]).mean() < 0.7  # drawn apart
    other, _ = train_apply(model, params, image, jax.random.key(1, impl="rbg"))
    assert not np.array_equal(logits, other)


def test_dropout_on_the_embedded_tokens(image, random_params):
    model = Model(5, dropout=0.5, posemb="none", pool_type="tok", **TINY)
    params = random_params(model, image)
    _, out = train_apply(model, params, image)
    block = out["encoder"]["block00"]
    # +sa = dropout(tokens) + dropout(sa): each entry is one of four sums.
    cls = np.broadcast_to(params["cls"], (3, 1, 16))
    tokens = np.concatenate([cls, out["with_posemb"]], axis=1)
    sa, total = np.asarray(block["sa"]), np.asarray(block["+sa"])
    sums = [2 * i * tokens + 2 * j * sa for i in (0, 1) for j in (0, 1)]
    which = np.abs(np.stack(sums) - total).argmin(0)
    np.testing.assert_allclose(np.choose(which, sums), total, atol=1e-5)
    shares = np.bincount(which.ravel(), minlength=4) / which.size
    assert (np.abs(shares - 0.25) < 0.12).all()


def test_dropout_inside_the_mlp():
    """Its second layer is an identity, so the output is the dropped hidden units."""
    x = jax.random.normal(KEY, (3, 5, 16))
    mlp = MlpBlock(config(mlp_dim=16, dropout=0.5, deterministic=False))
    params = mlp.init({"params": KEY, "dropout": KEY}, x)["params"]
    params["Dense_1"] = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    y = np.asarray(mlp.apply({"params": params}, x, rngs={"dropout": KEY}))
    dense = jax.tree.map(np.asarray, params["Dense_0"])
    hidden = nn.gelu(np.asarray(x) @ dense["kernel"] + dense["bias"])
    np.testing.assert_allclose(y, np.where(y != 0, 2 * hidden, 0), atol=1e-5)
    assert 0.35 < (y != 0).mean() < 0.65
