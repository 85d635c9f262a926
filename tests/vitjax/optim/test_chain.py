import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax as ox
import pytest
from ml_collections import ConfigDict

from vitjax import trees
from vitjax.optim import make_optimizer

RUN = {"total_steps": 100, "batch_size": 8, "data_size": 80}
BARE = {**RUN, "lr": 1.0, "optax_name": "identity"}
ADAM = {**RUN, "lr": 1e-3, "optax_name": "scale_by_adam"}


def tiny(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {
        "body": {"kernel": (3, 2), "bias": (2,)},
        "head": {"kernel": (2, 4), "bias": (4,)},
    }
    return jax.tree.map(
        lambda shape: (scale * rng.normal(size=shape)).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def run(tx, params, grads):
    """The updates for each of a list of gradients, and the last state."""
    state, out = tx.init(params), []
    update = jax.jit(tx.update)
    for g in grads:
        updates, state = update(g, state, params)
        out.append(updates)
        params = ox.apply_updates(params, updates)
    return out, state


def named(tree):
    return {n: np.asarray(x, np.float64) for n, x in trees.flatten_with_names(tree)}


def test_adam_clip_decay_and_schedule_by_hand():
    lr, wd, clip, warmup, total = 1e-2, 1e-3, 1.5, 3, 8
    params = tiny()
    # Norms from 0.4 to 40 around the clip: an Adam fed with other clips differs.
    grads = [
        tiny(seed, scale) for seed, scale in enumerate([0.1, 2, 0.3, 8, 10, 0.1], 1)
    ]
    tx, [rate] = make_optimizer(
        params,
        total_steps=total,
        batch_size=8,
        data_size=80,
        lr=lr,
        wd=wd,
        schedule={"decay_type": "cosine", "warmup_steps": warmup},
        optax_name="scale_by_adam",
        grad_clip_norm=clip,
        lr_mults=[("head/.*", 0.5), (".*/kernel", 2.0)],
    )
    got, _ = run(tx, params, grads)

    p, mults = named(params), {"head/kernel": 0.5, "head/bias": 0.5, "body/kernel": 2}
    m = {name: 0.0 for name in p}
    v = {name: 0.0 for name in p}
    for t, (tree, updates) in enumerate(zip(grads, got, strict=True)):
        s = min(1, t / warmup) * 0.5
        s *= 1 + np.cos(np.pi * max(0, (t - warmup) / (total - warmup)))
        np.testing.assert_allclose(rate(t), lr * s, rtol=1e-6, atol=1e-12)
        g = named(tree)
        norm = np.sqrt(sum((x**2).sum() for x in g.values()))
        for name, x in g.items():
            x = x * min(1, clip / norm)
            m[name] = 0.9 * m[name] + 0.1 * x
            v[name] = 0.999 * v[name] + 0.001 * x**2
            m_hat, v_hat = (
                m[name] / (1 - 0.9 ** (t + 1)),
                v[name] / (1 - 0.999 ** (t + 1)),
            )
            u = lr * mults.get(name, 1) * m_hat / (np.sqrt(v_hat) + 1e-8)
            u = -s * (u + (wd * p[name] if name.endswith("kernel") else 0))
            # float32 knows 1 - 0.999 to 2**-25 / 0.001 = 3e-5, and its root to half of
            # that; terms of up to 2 * lr may cancel.
            np.testing.assert_allclose(
                named(updates)[name], u, rtol=2e-5, atol=2e-5 * 2 * lr
            )
            p[name] = p[name] + u


def test_the_first_update_is_none_but_the_moments_move():
    tx, _ = make_optimizer(
        tiny(),
        **ADAM,
        wd=1e-4,
        grad_clip_norm=1.0,
        schedule={"decay_type": "cosine", "warmup_steps": 10},
    )
    [first, second], state = run(tx, tiny(), [tiny(1), tiny(2)])
    assert ox.tree.norm(first) == 0
    assert ox.tree.norm(second) > 0
    _, state = run(tx, tiny(), [tiny(1)])
    assert ox.tree.norm(ox.tree.get(state, "mu")) > 0


def test_clipping_comes_before_adam():
    # Adam undoes any scale of its first gradient; a clip behind it would not.
    tx, _ = make_optimizer(tiny(), **ADAM, grad_clip_norm=0.1)
    [update], _ = run(tx, tiny(), [tiny(1, 1000)])
    for name, u in named(update).items():
        np.testing.assert_allclose(u, -1e-3 * np.sign(named(tiny(1))[name]), rtol=1e-4)


def test_clipping_scales_by_the_exact_norm_and_leaves_smaller_gradients_alone():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    tx, _ = make_optimizer(params, **BARE, grad_clip_norm=6.5)
    small = {"a": jnp.array([3.0, 4.0]), "b": jnp.array(0.0)}
    large = {"a": jnp.array([3.0, 4.0]), "b": jnp.array(12.0)}  # norm 13
    [clipped, kept], _ = run(tx, params, [large, small])
    np.testing.assert_allclose(clipped["a"], [-1.5, -2], rtol=1e-7)
    np.testing.assert_allclose(clipped["b"], -6, rtol=1e-7)
    np.testing.assert_array_equal(kept["a"], [-3, -4])
    for off in (None, 0, False):
        tx, _ = make_optimizer(params, **BARE, grad_clip_norm=off)
        [free], _ = run(tx, params, [large])
        assert free["b"] == -12


def test_decay_alone_follows_the_schedule_and_not_the_learning_rate():
    params = jax.tree.map(jnp.ones_like, tiny())
    zeros = [jax.tree.map(jnp.zeros_like, params)] * 3
    tx, _ = make_optimizer(
        params,
        **ADAM,
        wd=1e-4,
        schedule={"decay_type": "cosine", "warmup_steps": 10},
        lr_mults=[(".*", 7.0)],
    )
    updates, _ = run(tx, params, zeros)
    kernels = [u["body"]["kernel"] for u in updates]
    for got, expected in zip(kernels, [0, -1e-5, -2e-5], strict=True):
        np.testing.assert_allclose(got, np.full((3, 2), expected), rtol=1e-4)
    assert not any(u["body"]["bias"].any() for u in updates)


def test_coupled_decay_is_added_to_clipped_gradients_before_the_optimizer():
    params = {"a": {"kernel": jnp.array([2.0, 0.0])}, "b": {"bias": jnp.array(1.0)}}
    grads = {"a": {"kernel": jnp.array([3.0, 4.0])}, "b": {"bias": jnp.array(0.0)}}
    tx, _ = make_optimizer(params, **BARE, grad_clip_norm=1.0, l2=0.25)
    [update], _ = run(tx, params, [grads])
    np.testing.assert_allclose(update["a"]["kernel"], [-(0.6 + 0.5), -0.8], rtol=1e-6)
    assert update["b"]["bias"] == 0
    everything = ((".*/kernel", 2.0), (".*", 1.0))
    tx, _ = make_optimizer(params, **ADAM, l2=0.25, l2_mults=everything)
    [update], state = run(tx, params, [jax.tree.map(jnp.zeros_like, grads)])
    # Adam makes steps of lr of it: decoupled decay would be lr-free and small.
    np.testing.assert_allclose(update["a"]["kernel"], [-1e-3, 0.0], rtol=1e-4)
    mu = ox.tree.get(state, "mu")
    np.testing.assert_allclose(mu["a"]["kernel"], [0.1 * 0.25 * 2 * 2, 0], rtol=1e-6)
    np.testing.assert_allclose(mu["b"]["bias"], 0.1 * 0.25, rtol=1e-6)


def test_coupled_decay_leaves_frozen_parameters_out():
    kw = dict(l2=0.1, l2_mults=((".*", 1.0),), schedule=[("body/.*", None), (".*", {})])
    tx, _ = make_optimizer(tiny(), **{**BARE, **kw})
    [update], _ = run(tx, tiny(1), [jax.tree.map(jnp.zeros_like, tiny())])
    for name, u in named(update).items():
        expected = 0 if name.startswith("body") else -0.1 * named(tiny(1))[name]
        np.testing.assert_allclose(u, np.broadcast_to(expected, u.shape), rtol=1e-6)


def test_sharpness_aware_steps_by_hand():
    """f = (x^2 + 10 y^2) / 2 from (1, 1), rho 0.5: the gradient at the point uphill."""
    params = {"w": jnp.array([1.0, 1.0])}
    curvature = np.array([1.0, 10.0])

    def grad_fn(p, i):
        assert i == 0
        return {"w": p["w"] * curvature}

    tx, _ = make_optimizer(params, **BARE, sam={"rho": 0.5})
    update, _ = tx.update(grad_fn(params, 0), tx.init(params), params, grad_fn=grad_fn)
    g = curvature
    uphill = 1 + 0.5 * g / np.linalg.norm(g)
    np.testing.assert_allclose(update["w"], -uphill * curvature, rtol=1e-6)


def test_wd_mults_choose_what_decays():
    params = jax.tree.map(jnp.ones_like, tiny())
    zeros = [jax.tree.map(jnp.zeros_like, params)]
    for mults, expected in [
        ([(".*", 1.0)], {"body/kernel": 1, "head/kernel": 1, "head/bias": 1}),
        ([("head/.*", 3), (".*kernel", 1)], {"body/kernel": 1, "head/bias": 3}),
        ([("head/.*", 0.0), (".*", 1)], {"body/bias": 1, "head/kernel": 0}),
        ([], {"body/kernel": 0}),
    ]:
        tx, _ = make_optimizer(params, **BARE, wd=0.5, wd_mults=mults)
        got = named(run(tx, params, zeros)[0][0])
        for name, mult in expected.items():
            np.testing.assert_array_equal(got[name], -0.5 * mult, err_msg=name)
    for none in (None, 0):
        tx, _ = make_optimizer(params, **BARE, wd=none)
        assert ox.tree.norm(run(tx, params, zeros)[0]) == 0


def test_a_pattern_that_matches_nothing_is_warned_of(caplog):
    params = jax.tree.map(jnp.ones_like, tiny())
    make_optimizer(
        params,
        **BARE,
        wd=0.5,
        wd_mults=[("body/.*", 1.0), (".*", 0.0)],
        lr_mults=[("bdy/.*", 0.1)],
        schedule=[("haed/.*", None), (".*", {})],
    )
    assert [r.getMessage() for r in caplog.records] == [
        "schedule: 'haed/.*' matches no parameter",
        "lr_mults: 'bdy/.*' matches no parameter",
    ]


def vit_s16_shapes(depth=12, d=384, mlp=1536, heads=6, classes=1000):
    """The parameters of ViT-S/16 with an MLP head, as big_vision names them."""

    def dense(*shape, bias=None):
        return {"kernel": shape, "bias": bias or shape[-1:]}

    norm = {"scale": (d,), "bias": (d,)}
    qkv = dense(d, heads, d // heads, bias=(heads, d // heads))
    block = {
        "LayerNorm_0": norm,
        "MultiHeadDotProductAttention_0": {
            "query": qkv,
            "key": qkv,
            "value": qkv,
            "out": dense(heads, d // heads, d),
        },
        "LayerNorm_1": norm,
        "MlpBlock_0": {"Dense_0": dense(d, mlp), "Dense_1": dense(mlp, d)},
    }
    shapes = {
        "embedding": dense(16, 16, 3, d),
        "Transformer": {f"encoderblock_{i}": block for i in range(depth)}
        | {"encoder_norm": norm},
        "pre_logits": dense(d, d),
        "head": dense(d, classes),
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_what_decays_and_what_is_stored_for_vit_s16():
    params = vit_s16_shapes()
    assert trees.count(params) == 22_122_472
    [decayed] = trees.match_patterns(params, [".*/kernel$"])
    kept = [
        x.size
        for x, hit in zip(
            jax.tree.leaves(params), jax.tree.leaves(decayed), strict=True
        )
        if hit
    ]
    assert (len(kept), sum(kept)) == (75, 22_060_032)

    tx, _ = make_optimizer(params, **ADAM, wd=1e-4, optax={"mu_dtype": "bfloat16"})
    state = jax.eval_shape(tx.init, params)
    for key, dtype in {"mu": jnp.bfloat16, "nu": jnp.float32}.items():
        moments = ox.tree.get(state, key)
        assert trees.count(moments) == 22_122_472
        assert {x.dtype for x in jax.tree.leaves(moments)} == {jnp.dtype(dtype)}

    # The default mask of the optimizer itself, on the same names with one scalar each.
    ones = jax.tree.map(lambda _: jnp.ones(()), params)
    tx, _ = make_optimizer(ones, **BARE, wd=1.0)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, ones), tx.init(ones), ones)
    assert sum(float(x) for x in jax.tree.leaves(updates)) == -75


def test_half_precision_mu_is_rounded_only_when_stored():
    tx, _ = make_optimizer(tiny(), **ADAM, optax={"mu_dtype": "bfloat16"})
    grads = tiny(1)
    [update], state = run(tx, tiny(), [grads])
    mu = named(ox.tree.get(state, "mu"))
    rounded = False
    for name, g in named(grads).items():
        # A rounded mu would be off by up to 2**-9 here.
        np.testing.assert_allclose(named(update)[name], -1e-3 * np.sign(g), rtol=1e-5)
        np.testing.assert_allclose(mu[name], 0.1 * g, rtol=2**-8)
        rounded |= not np.allclose(mu[name], 0.1 * g, rtol=2**-12)
    assert rounded


def test_groups_have_their_schedules_and_frozen_leaves_nothing():
    params = tiny()
    tx, rates = make_optimizer(
        params,
        **{**BARE, "lr": 2.0},
        wd=0.5,
        grad_clip_norm=1e3,
        schedule=[
            ("head/bias", {"mult": 3.0}),
            ("body/.*", None),
            (".*", {"decay_type": "linear", "warmup_steps": 4}),
        ],
    )
    grads = tiny(1)
    # Counted in the norm, this would scale everything down to nothing.
    grads["body"]["bias"] = np.full(2, 1e9, np.float32)
    updates, _ = run(tx, params, [grads] * 3)
    assert [[float(rate(s)) for s in (0, 2, 52)] for rate in rates] == [
        [6, 6, 6],
        [0, 1, 1],
    ]
    for t, update in enumerate(updates):
        assert not update["body"]["bias"].any()
        assert not update["body"]["kernel"].any()
        np.testing.assert_allclose(
            update["head"]["bias"], -6 * grads["head"]["bias"], rtol=1e-6
        )
        if t == 0:
            assert not update["head"]["kernel"].any()
            expected = 2 * grads["head"]["kernel"] + 0.5 * params["head"]["kernel"]
        if t == 1:
            np.testing.assert_allclose(
                update["head"]["kernel"], -0.25 * expected, rtol=1e-5, atol=1e-7
            )


@pytest.mark.parametrize(
    "name", ["scale_by_adam", "big_vision.scale_by_adafactor", "big_vision.momentum_hp"]
)
def test_frozen_leaves_have_no_moments(name):
    params = {"body": jnp.zeros((7, 5)), "head": jnp.zeros((3, 2))}
    tx, rates = make_optimizer(
        params,
        **{**BARE, "optax_name": name},
        schedule=[("body", None), ("head", {"decay_type": "cosine"})],
    )
    shapes = {x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, params))}
    assert (3, 2) in shapes
    assert (7, 5) not in shapes
    assert len(rates) == 1


def test_everything_may_be_frozen():
    tx, rates = make_optimizer(
        tiny(), **ADAM, wd=1.0, grad_clip_norm=1.0, schedule=[(".*", None)]
    )
    [update], _ = run(tx, tiny(), [tiny(1)])
    assert ox.tree.norm(update) == 0
    assert rates == []


def test_without_a_schedule_the_rate_is_constant():
    tx, [rate] = make_optimizer(tiny(), **{**BARE, "lr": 0.5})
    updates, _ = run(tx, tiny(), [tiny(1)] * 3)
    for update in updates:
        np.testing.assert_array_equal(
            update["head"]["bias"], -0.5 * tiny(1)["head"]["bias"]
        )
    assert jax.jit(rate)(jnp.int32(99)) == 0.5


def test_sections_may_be_config_dicts_and_params_frozen_dicts():
    config = ConfigDict(
        {
            "optax": {"mu_dtype": "bfloat16", "b2": 0.95},
            "schedule": [("head/.*", {"warmup_epochs": 1}), (".*", None)],
            "wd_mults": [(".*", 1.0)],
        }
    )
    params = flax.core.freeze(tiny())
    tx, [rate] = make_optimizer(params, **ADAM, wd=0.1, **config)
    plain, _ = make_optimizer(tiny(), **ADAM, wd=0.1, **config.to_dict())
    assert rate(5) == np.float32(1e-3) * np.float32(0.5)
    got, _ = run(tx, params, [flax.core.freeze(tiny(i)) for i in range(3)])
    expected, _ = run(plain, tiny(), [tiny(i) for i in range(3)])
    jax.tree.map(
        np.testing.assert_array_equal, [flax.core.unfreeze(g) for g in got], expected
    )
    whole = ConfigDict({"schedule": {"decay_type": "cosine"}})
    _, [rate] = make_optimizer(params, **ADAM, **whole)
    np.testing.assert_allclose(rate(50), 0.5e-3, rtol=1e-6)


@pytest.mark.parametrize("cap", [0.999, 0.5])
@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_adafactor_by_hand(cap, threshold, momentum):
    # Both dims of "wide" reach 32 and are factored; those of the others do not.
    shapes = {"wide": (64, 48), "thin": (64, 31), "bias": (64,)}
    rng = np.random.default_rng(0)
    grads = [
        {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
        for _ in range(5)
    ]
    params = {k: jnp.zeros(s) for k, s in shapes.items()}
    tx, _ = make_optimizer(
        params,
        **{**BARE, "optax_name": "big_vision.scale_by_adafactor"},
        optax={
            "beta2_cap": cap,
            "clipping_threshold": threshold,
            "momentum": momentum,
            "dtype_momentum": "float32",
        },
    )
    got, state = run(tx, params, grads)
    stored = {x.shape for x in jax.tree.leaves(ox.tree.get(state, "v"))}
    assert stored == {(1,), (64, 31), (64,)}

    rows, cols, full, mom = np.zeros(64), np.zeros(48), {"thin": 0, "bias": 0}, {}
    for t, (tree, updates) in enumerate(zip(grads, got, strict=True), 1):
        beta2 = min(cap, 1 - t**-0.8)
        for name, g in named(tree).items():
            if name == "wide":
                rows = beta2 * rows + (1 - beta2) * (g**2).mean(1)
                cols = beta2 * cols + (1 - beta2) * (g**2).mean(0)
                v = np.outer(rows, cols) / rows.mean()
            else:
                v = full[name] = beta2 * full[name] + (1 - beta2) * g**2
            u = g / np.sqrt(v)
            if threshold:
                u = u / max(1, np.sqrt((u**2).mean()) / threshold)
            if momentum:
                u = mom[name] = 0.9 * mom.get(name, 0) + 0.1 * u
            np.testing.assert_allclose(
                named(updates)[name], -u, rtol=2e-5, atol=1e-7, err_msg=f"{name} {t}"
            )


def test_adafactor_defaults_are_those_of_big_vision():
    params = {"wide": jnp.zeros((64, 48)), "thin": jnp.zeros((64, 31))}
    name = "big_vision.scale_by_adafactor"
    tx, _ = make_optimizer(params, **{**BARE, "optax_name": name})
    grads = {k: jnp.full(x.shape, 2.0) for k, x in params.items()}
    [update], state = run(tx, params, [grads])
    # beta2 is 0 at step 1, so g / rms(g) is 1: no debias and no clip, times 1 - 0.9.
    np.testing.assert_allclose(update["wide"], np.full((64, 48), -0.1), rtol=1e-6)
    assert {x.dtype for x in jax.tree.leaves(ox.tree.get(state, "ema"))} == {
        jnp.dtype(jnp.bfloat16)
    }
    # min(0.999, 1 - t**-0.8) meets its cap only after step 5,623: set the count there.
    late = ox.tree.set(state, lambda path, _: path[-1].name == "count", count=9_999)
    late = ox.tree.set(late, v_row={"wide": jnp.zeros(48), "thin": jnp.zeros(1)})
    _, late = tx.update(grads, late, params)
    np.testing.assert_allclose(
        ox.tree.get(late, "v_row")["wide"], np.full(48, 0.001 * 4), rtol=1e-4
    )


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_hp(nesterov):
    params = {"a": jnp.zeros(3)}
    tx, _ = make_optimizer(
        params,
        **{**BARE, "optax_name": "big_vision.momentum_hp"},
        optax={"momentum": 0.5, "nesterov": nesterov},
    )
    # Powers of two: bfloat16 holds them exactly.
    grads = [{"a": jnp.full(3, x)} for x in (1.0, 2.0, 4.0)]
    updates, state = run(tx, params, grads)
    expected = [1.5, 3.25, 6.625] if nesterov else [1, 2.5, 5.25]
    assert [float(-u["a"][0]) for u in updates] == expected
    assert {x.dtype for x in jax.tree.leaves(ox.tree.get(state, "trace"))} == {
        jnp.dtype(jnp.bfloat16)
    }


@pytest.mark.parametrize(
    ("name", "kw"),
    [
        ("scale_by_lion", {"b1": 0.9}),
        ("trace", {"decay": 0.9}),
        ("contrib.scale_by_ademamix", {}),
        ("scale_by_adan", None),
    ],
)
def test_any_transform_of_optax_by_name(name, kw):
    tx, _ = make_optimizer(tiny(), **{**BARE, "optax_name": name}, optax=kw)
    [update], _ = run(tx, tiny(), [tiny(1)])
    along = jax.tree.map(lambda u, g: (u * g).sum(), update, tiny(1))
    assert sum(jax.tree.leaves(along)) < 0


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"optax_name": "scale_by_adm"}, "optax_name.*did you mean 'scale_by_adam'"),
        (
            {"optax_name": "big_vision.scale_by_adafactr"},
            "big_vision.scale_by_adafactor'",
        ),
        ({"optax_name": "contrib"}, "unknown optax_name 'contrib'"),
        ({"optax_name": "adamw"}, "'adamw' is a whole optimizer"),
        ({"optax_name": "contrib.muon"}, "'contrib.muon' is a whole optimizer"),
        ({"optax_name": "global_norm"}, "optax_name='global_norm' with"),
        ({"optax_name": "EmptyState"}, "must make a gradient transformation"),
        ({"optax_name": "trace"}, "optax_name='trace' with {} fails.*decay"),
        ({"optax": {"beta1": 0.9}}, "for scale_by_adam 'beta1'; did you mean 'b1'"),
        ({"optax": {"mu_dtype": "bfloat17"}}, "optax_name='scale_by_adam' with.*fails"),
        ({"optax": {"b1": "x"}}, "optax_name='scale_by_adam' with {'b1': 'x'} fails"),
        ({"optax_name": "chain"}, "optax_name='chain' with {} fails"),
        ({"grad_clip_norm": -1}, "grad_clip_norm must be above 0, got -1"),
        ({"schedule": [(".*", 3)]}, "schedule must be a section, or None to.*, got 3"),
        ({"schedule": {"mult": "x"}}, "schedule.mult must be a number, got 'x'"),
        ({"schedule": {"decay_type": []}}, "schedule.decay_type must be a string"),
        ({"schedule": {"decay": "cosine"}}, "did you mean 'decay_type'"),
        ({"schedule": {"total_steps": 3}}, "schedule cannot set total_steps"),
        ({"schedule": {"warmup_steps": 100}}, "warm-up of 100 steps"),
        (
            {"schedule": [("head/.*", {}), (".*/bias", None)]},
            "schedule must cover every parameter.* body/kernel;",
        ),
        ({"schedule": [("(", {})]}, r"schedule: '\(' is not a regular expression"),
        ({"lr_mults": [("head/.*", 0)]}, "lr_mults must be above 0"),
        ({"sam": {"rho": 0}}, "sam.rho must be above 0, got 0"),
        ({"sam": {"ro": 0.1}}, "in sam: .ro.; did you mean 'rho'"),
        ({"l2": 0.1, "l2_mults": [("*", 1.0)]}, "l2_mults: .* not a regular"),
        ({"wd": 0.1, "wd_mults": [("*", 1.0)]}, "wd_mults: .* not a regular"),
    ],
)
def test_errors(kw, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(tiny(), **{**ADAM, **kw})
