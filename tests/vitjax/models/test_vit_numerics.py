"""The ViT's numbers: against numpy, against flax, and against its own other forms."""

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
F32, BF16 = np.dtype(np.float32), np.dtype(jnp.bfloat16)


@pytest.fixture(scope="module")
def image():
    """Three images whose grid is 2 x 3."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (3, 8, 6, 3)).astype(np.float32)


# An independent ViT: numpy, float64, explicit loops over heads.


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def attention(x, y, p):
    """x attends to y; also the probabilities of every head."""
    out, every = p["out"]["bias"].copy(), []
    for head in range(p["query"]["kernel"].shape[1]):
        q, k, v = (
            z @ p[name]["kernel"][:, head] + p[name]["bias"][head]
            for z, name in ((x, "query"), (y, "key"), (y, "value"))
        )
        e = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]))
        probs = e / e.sum(-1, keepdims=True)
        out = out + probs @ v @ p["out"]["kernel"][head]
        every.append(probs)
    return out, np.stack(every, 1)


def gelu(x, kind):
    if kind == "exact":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def mlp(x, p, kind):
    return dense(gelu(dense(x, p["Dense_0"]), kind), p["Dense_1"])


def sincos(h, w, d):
    table = np.zeros((h * w, d))
    for i in range(h):
        for j in range(w):
            for k in range(d // 4):
                omega = 10000 ** (-k / (d // 4 - 1))
                values = [fn(z * omega) for z in (j, i) for fn in (math.sin, math.cos)]
                table[i * w + j, k :: d // 4] = values
    return table


def numpy_vit(params, image, *, posemb, pool_type, kind="tanh", depth=2):
    """Logits, logits_2d and the first block's attention probabilities."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    kernel = p["embedding"]["kernel"]
    ph, pw, _, d = kernel.shape
    b, h, w = image.shape[0], image.shape[1] // ph, image.shape[2] // pw
    x = np.zeros((b, h * w, d))
    for i in range(h):
        for j in range(w):
            patch = image[:, i * ph : (i + 1) * ph, j * pw : (j + 1) * pw]
            x[:, i * w + j] = patch.reshape(b, -1) @ kernel.reshape(-1, d)
    x += p["embedding"]["bias"]
    if posemb == "sincos2d":
        x += sincos(h, w, d)
    elif posemb == "learn":
        x += p["pos_embedding"]
    if pool_type == "tok":
        x = np.concatenate([p["cls"].repeat(b, 0), x], 1)
    if "registers" in p:
        x = np.concatenate([x, p["registers"].repeat(b, 0)], 1)
    attn = []
    for i in range(depth):
        q = p["Transformer"][f"encoderblock_{i}"]
        y = layer_norm(x, q["LayerNorm_0"])
        y, probs = attention(y, y, q["MultiHeadDotProductAttention_0"])
        attn.append(probs)
        x = x + y
        x = x + mlp(layer_norm(x, q["LayerNorm_1"]), q["MlpBlock_0"], kind)
    x = layer_norm(x, p["Transformer"]["encoder_norm"])
    first = 1 if pool_type == "tok" else 0
    tokens = x[:, first : first + h * w]
    if pool_type == "gap":
        x = tokens.mean(1)
    elif pool_type == "map":
        q = p["MAPHead_0"]
        probe = q["probe"].repeat(b, 0)
        x, _ = attention(probe, tokens, q["MultiHeadDotProductAttention_0"])
        x = (x + mlp(layer_norm(x, q["LayerNorm_0"]), q["MlpBlock_0"], kind))[:, 0]
    elif pool_type in ("tok", "0"):
        x = x[:, 0]
    else:
        x = tokens
    x_2d = tokens.reshape(b, h, w, d)
    if "pre_logits" in p:
        x, x_2d = (
            np.tanh(dense(x, p["pre_logits"])),
            np.tanh(dense(x_2d, p["pre_logits"])),
        )
    return dense(x, p["head"]), dense(x_2d, p["head"]), attn[0]


# About ten matmuls deep, each a sum of some 24 products whose total is of size 1: their
# roundings add up to sqrt(10 * 24) u = 16 * 6e-8 = 1e-6 in float32. The other GELU, the
# nearest wrong model, is at least 5e-5 away (tested below).
BOUND_F32 = 1e-6
GELU_GAP = 5e-5


@pytest.mark.parametrize(
    ("pool_type", "posemb", "extra"),
    [
        ("gap", "sincos2d", {"rep_size": True}),
        ("gap", "learn", {"registers": 3, "gelu": "exact"}),
        ("map", "learn", {"rep_size": 7}),
        ("map", "sincos2d", {"registers": 2}),
        ("tok", "sincos2d", {"registers": 2, "return_attn": True}),
        ("tok", "learn", {"attn_impl": "xla"}),
        ("0", "none", {}),
        ("none", "none", {"registers": 1}),
    ],
)
def test_forward_equals_numpy(image, random_params, pool_type, posemb, extra):
    model = Model(5, pool_type=pool_type, posemb=posemb, **extra, **TINY)
    params = random_params(model, image)
    logits, out = jax.jit(model.apply)({"params": params}, image)
    kind = extra.get("gelu", "tanh")
    expected, expected_2d, probs = numpy_vit(
        params, image, posemb=posemb, pool_type=pool_type, kind=kind
    )
    np.testing.assert_allclose(logits, expected, atol=BOUND_F32, rtol=0)
    np.testing.assert_allclose(out["logits_2d"], expected_2d, atol=BOUND_F32, rtol=0)
    np.testing.assert_array_equal(out["logits"], logits)
    attn = out["encoder"]["block00"].get("attn")
    assert (attn is not None) == ("return_attn" in extra)
    if attn is not None:
        np.testing.assert_allclose(attn, probs, atol=1e-6, rtol=0)
    wrong, *_ = numpy_vit(
        params,
        image,
        posemb=posemb,
        pool_type=pool_type,
        kind={"tanh": "exact", "exact": "tanh"}[kind],
    )
    assert np.abs(wrong - expected).max() > GELU_GAP


@pytest.mark.parametrize("scan", [False, True])
def test_a_float64_model_is_float64_throughout(image, random_params, scan):
    kw = {"posemb": "sincos2d", "pool_type": "map", "return_attn": True, **TINY}
    params = random_params(Model(5, **kw), image)
    expected, _, probs = numpy_vit(
        params, image, posemb=kw["posemb"], pool_type=kw["pool_type"]
    )
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
        params = loop_to_scan(params) if scan else params
        model = Model(5, dtype_mm="float64", scan=scan, **kw)
        logits, out = jax.jit(model.apply)({"params": params}, image)
        assert {x.dtype for x in jax.tree.leaves(out)} == {np.dtype(np.float64)}
        # BOUND_F32 with the other u: nothing passed through float32.
        np.testing.assert_allclose(logits, expected, atol=1e-14, rtol=0)
        attn = out["encoder"]["block00"]["attn"]
        np.testing.assert_allclose(attn, probs, atol=1e-15, rtol=0)


@pytest.mark.parametrize("pool_type", ["tok", "map"])
@pytest.mark.parametrize("scan", [False, True])
def test_x64_alone_changes_no_dtype(image, pool_type, scan):
    kw = {"registers": 1, "dropout": 0.1, "drop_path": 0.1}
    model = Model(5, pool_type=pool_type, scan=scan, **kw, **TINY)

    def train(params, image, key):
        return model.apply({"params": params}, image, train=True, rngs={"dropout": key})

    with jax.enable_x64(True):
        params = jax.eval_shape(model.init, KEY, image)["params"]
        out = jax.eval_shape(train, params, image, KEY)
    assert {x.dtype for x in jax.tree.leaves((params, out))} == {F32}


# bfloat16: what is stored, what computes, what comes out.


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("pool_type", ["tok", "map"])
@pytest.mark.parametrize("upstream", [False, True])
def test_bfloat16_dtypes(image, upstream, pool_type, scan):
    names = {"residual_dtype": "bfloat16", "softmax_dtype": "bfloat16"}
    model = Model(
        5,
        pool_type=pool_type,
        rep_size=True,
        dtype_mm="bfloat16",
        scan=scan,
        return_attn=True,
        **(names if upstream else {}),
        **TINY,
    )
    shapes, params = jax.eval_shape(model.init_with_output, KEY, image)
    assert {x.dtype for x in jax.tree.leaves(params)} == {F32}
    stream = BF16 if upstream else F32
    block = {"sa": BF16, "attn": BF16, "+sa": stream, "mlp": BF16, "+mlp": stream}
    expected = {
        "stem": BF16,
        "with_posemb": stream,
        "encoder": {"block00": block, "block01": block},
        "encoded": F32,
        "head_input": stream if pool_type == "map" else F32,
    }
    for name in ("pre_logits", "pre_logits_2d", "logits", "logits_2d"):
        expected[name] = F32
    if not scan:
        expected["encoder"]["pre_ln"] = stream
    assert jax.tree.map(lambda x: x.dtype, shapes[1]) == expected
    assert shapes[0].dtype == F32


@pytest.mark.parametrize("dtype_mm", ["float32", "bfloat16"])
@pytest.mark.parametrize("scan", [False, True])
def test_the_residual_stream_keeps_its_dtype_in_training(image, scan, dtype_mm):
    model = Model(
        5,
        pool_type="map",
        dtype_mm=dtype_mm,
        residual_dtype="bfloat16",
        dropout=0.1,
        drop_path=0.1,
        scan=scan,
        **TINY,
    )
    params = jax.eval_shape(model.init, KEY, image)["params"]

    def train(params, key):
        return model.apply({"params": params}, image, train=True, rngs={"dropout": key})

    _, out = jax.eval_shape(train, params, KEY)
    blocks = [out["encoder"][f"block{i:02d}"] for i in range(2)]
    stream = [block[name] for block in blocks for name in ("+sa", "+mlp")]
    stream += [out["with_posemb"], out["head_input"]]
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
    (out, _), our_params = jax.jit(ours.init_with_output)(KEY, x, y)
    jax.tree.map(np.testing.assert_array_equal, our_params, params)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, expected)


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


def test_xla_equals_flax(image, random_params):
    """Gradients included, to some ten roundings of the largest."""
    models = [Model(5, **(TINY | {"depth": 1}), attn_impl=i) for i in ("flax", "xla")]
    params = random_params(models[0], image)

    def loss(params, model):
        return jnp.sum(jnp.square(model.apply({"params": params}, image)[0]))

    flax, xla = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, m) for m in models
    )
    scale = max(np.abs(g).max() for g in jax.tree.leaves(flax))
    for a, b in zip(jax.tree.leaves(flax), jax.tree.leaves(xla), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * scale, rtol=0)


# Scan and remat change how it runs, not what it computes.


def loss_and_grads(params, image, **kw):
    model = Model(5, pool_type="tok", **kw, **TINY)

    def loss(params):
        return jnp.sum(jnp.square(model.apply({"params": params}, image)[0]))

    return jax.jit(jax.value_and_grad(loss))(params)


def test_scan_and_remat_equal_the_plain_loop(image, random_params):
    params = random_params(Model(5, pool_type="tok", **TINY), image)
    loss, grads = loss_and_grads(params, image)
    for kw in (
        {"remat_policy": "dots_saveable"},
        {"scan": True},
    ):
        scan = kw.get("scan", False)
        other, other_grads = loss_and_grads(
            loop_to_scan(params) if scan else params, image, **kw
        )
        np.testing.assert_allclose(other, loss, rtol=1e-6)
        expected = loop_to_scan(grads) if scan else grads
        scale = max(np.abs(g).max() for g in jax.tree.leaves(grads))
        jax.tree.map(
            lambda a, b, scale=scale: np.testing.assert_allclose(
                a, b, atol=1e-6 * scale, rtol=0
            ),
            other_grads,
            expected,
        )


def test_scan_gives_the_loops_intermediates(image, random_params):
    model = Model(5, return_attn=True, registers=1, **TINY)
    params = random_params(model, image)
    _, loop = jax.jit(model.apply)({"params": params}, image)
    model = model.clone(scan=True)
    _, scan = jax.jit(model.apply)({"params": loop_to_scan(params)}, image)
    del loop["encoder"]["pre_ln"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), loop, scan)


@pytest.mark.parametrize(
    ("kw", "remat"),
    [
        ({}, False),
        ({"remat_policy": "none"}, False),
        ({"remat_policy": "nothing_saveable"}, True),
        ({"remat_policy": "dots_with_no_batch_dims_saveable"}, True),
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
    assert ("policy=" in str(jaxpr)) == remat


# Dropout and stochastic depth.


def train_apply(model, params, image, key=KEY):
    def apply(params, key):
        return model.apply({"params": params}, image, train=True, rngs={"dropout": key})

    return jax.jit(apply)(params, key)


def test_no_rng_is_asked_for_when_nothing_drops(image, random_params):
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
    _, out = train_apply(model, params, image)
    x = np.asarray(out["with_posemb"])
    for i, rate in enumerate([0, 0.25, 0.5]):
        block = out["encoder"][f"block{i:02d}"]
        dropped = []
        for branch in ("sa", "mlp"):
            delta = np.asarray(block[f"+{branch}"]) - x
            zero = (delta == 0).all((1, 2))
            survivors = np.asarray(block[branch])[~zero] / (1 - rate)
            np.testing.assert_allclose(delta[~zero], survivors, atol=1e-5)
            dropped.append(zero)
            x = np.asarray(block[f"+{branch}"])
        share = np.mean(dropped)
        # 192 draws: three standard deviations are 0.11.
        assert share == 0 if rate == 0 else abs(share - rate) < 0.11
        # The two branches are drawn apart.
        assert rate == 0 or (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_acts_on_both_branches_of_every_block(image, random_params, scan):
    model = Model(5, dropout=0.5, **TINY)
    params = random_params(model, image)
    if scan:
        params, model = loop_to_scan(params), model.clone(scan=True)
    logits, out = train_apply(model, params, image)
    x, masks = np.asarray(out["encoder"]["block00"]["+mlp"]), []
    for block, branch in (("block00", "mlp"), ("block01", "sa"), ("block01", "mlp")):
        y = out["encoder"][block]
        if block == "block00":
            before = np.asarray(y["+sa"])
        else:
            before = x if branch == "sa" else np.asarray(y["+sa"])
        delta = np.asarray(y[f"+{branch}"]) - before
        masks.append(delta != 0)
        expected = np.where(masks[-1], 2 * np.asarray(y[branch]), 0)
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
    """With an identity as its second layer, the dropped hidden units are the output."""
    x = jax.random.normal(KEY, (3, 5, 16))
    mlp = MlpBlock(config(mlp_dim=16, dropout=0.5, deterministic=False))
    params = mlp.init({"params": KEY, "dropout": KEY}, x)["params"]
    params["Dense_1"] = {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}
    y = np.asarray(mlp.apply({"params": params}, x, rngs={"dropout": KEY}))
    hidden = gelu(
        dense(np.asarray(x), jax.tree.map(np.asarray, params["Dense_0"])), "tanh"
    )
    np.testing.assert_allclose(y, np.where(y != 0, 2 * hidden, 0), atol=1e-5)
    assert 0.35 < (y != 0).mean() < 0.65
