"""The chain of the optimizer, where `python -m parity` does not compare it with torch.

Its rung "update" has Adam, the clip before it, the decay of kernels by the schedule
alone, the warm-up from 0, and both dtypes of the first moment.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax as ox
import pytest
from ml_collections import ConfigDict

from vitjax import step, trees
from vitjax.models import vit
from vitjax.optim import make_optimizer

RUN = {"total_steps": 100, "batch_size": 8, "data_size": 80}
BARE = {**RUN, "lr": 1.0, "optax_name": "identity"}
FLAGSHIP = {
    "variant": "S/16",
    "pool_type": "gap",
    "posemb": "sincos2d",
    "rep_size": True,
}
ADAM = {**RUN, "lr": 1e-3, "optax_name": "scale_by_adam"}
ADAFACTOR = {**BARE, "optax_name": "big_vision.scale_by_adafactor"}


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


def first_update(params, grads, **kw):
    """The first update by name, of the whole learning rate unless `kw` says otherwise."""
    tx, _ = make_optimizer(params, **{**BARE, **kw})
    return named(run(tx, params, [grads])[0][0])


def zeros():
    return jax.tree.map(jnp.zeros_like, tiny())


def test_multipliers_scale_the_rate_and_not_the_decay():
    params = tiny()
    kw = {"wd": 0.25, "lr_mults": [("head/.*", 0.5), (".*/kernel", 2.0)]}
    kw["schedule"] = {"decay_type": "linear"}
    tx, [rate] = make_optimizer(params, **{**BARE, "lr": 0.1}, **kw)
    grads = [tiny(1), tiny(2)]
    updates, _ = run(tx, params, grads)
    mults = {"head/kernel": 0.5, "head/bias": 0.5, "body/kernel": 2, "body/bias": 1}
    p = named(params)
    for t, (g, update) in enumerate(zip(map(named, grads), updates, strict=True)):
        assert rate(t) == pytest.approx(0.1 * (1 - t / 100))
        for name, u in named(update).items():
            decay = 0.25 * p[name] if name.endswith("kernel") else 0
            expected = -(1 - t / 100) * (0.1 * mults[name] * g[name] + decay)
            np.testing.assert_allclose(u, expected, rtol=1e-4, atol=1e-6)
            p[name] = p[name] + u


def test_clipping_scales_by_the_exact_norm_and_leaves_smaller_gradients_alone():
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    large = {"a": jnp.array([3.0, 4.0]), "b": jnp.array(12.0)}  # norm 13
    clipped = first_update(params, large, grad_clip_norm=6.5)
    np.testing.assert_allclose(clipped["a"], [-1.5, -2], rtol=1e-7)
    np.testing.assert_allclose(clipped["b"], -6, rtol=1e-7)
    for off in (None, 0, False, 13.1):
        kept = first_update(params, large, grad_clip_norm=off)
        np.testing.assert_array_equal(kept["a"], [-3, -4])


def test_coupled_decay_is_added_to_clipped_gradients_before_the_optimizer():
    params = {"a": {"kernel": jnp.array([2.0, 0.0])}, "b": {"bias": jnp.array(1.0)}}
    grads = {"a": {"kernel": jnp.array([3.0, 4.0])}, "b": {"bias": jnp.array(0.0)}}
    update = first_update(params, grads, grad_clip_norm=1.0, l2=0.25)
    np.testing.assert_allclose(update["a/kernel"], [-(0.6 + 0.5), -0.8], rtol=1e-6)
    assert update["b/bias"] == 0
    everything = ((".*/kernel", 2.0), (".*", 1.0))
    tx, _ = make_optimizer(params, **ADAM, l2=0.25, l2_mults=everything)
    [update], state = run(tx, params, [jax.tree.map(jnp.zeros_like, grads)])
    # Adam makes steps of lr of it: decoupled decay would be lr-free and small.
    np.testing.assert_allclose(update["a"]["kernel"], [-1e-3, 0.0], rtol=1e-4)
    mu = ox.tree.get(state, "mu")
    np.testing.assert_allclose(mu["a"]["kernel"], [0.1 * 0.25 * 2 * 2, 0], rtol=1e-6)
    np.testing.assert_allclose(mu["b"]["bias"], 0.1 * 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("kw", "mults"),
    [
        ({}, {"body/kernel": 1, "body/bias": 0, "head/kernel": 1, "head/bias": 0}),
        ({"wd_mults": [("head/.*", 3), (".*kernel", 1)]},
         {"body/kernel": 1, "body/bias": 0, "head/kernel": 3, "head/bias": 3}),
        ({"wd_mults": [("head/.*", 0.0), (".*", 1)]},
         {"body/kernel": 1, "body/bias": 1, "head/kernel": 0, "head/bias": 0}),
        ({"wd_mults": []}, {}),
        ({"wd": None}, {}),
        ({"wd": 0}, {}),
        # Coupled decay; frozen parameters have none.
        ({"wd": None, "l2": 0.5, "l2_mults": ((".*", 1.0),),
          "schedule": [("body/.*", None), (".*", {})]},
         {"head/kernel": 1, "head/bias": 1}),
    ],
)  # fmt: skip
def test_which_parameters_decay(kw, mults):
    p = named(tiny())
    for name, update in first_update(tiny(), zeros(), **{"wd": 0.5, **kw}).items():
        np.testing.assert_allclose(update, -0.5 * mults.get(name, 0) * p[name])


def test_the_kernels_of_s16_decay():
    """The default mask, on ones of the shapes: 75 kernels of 22,060,032 numbers."""
    model = vit.Model(1000, **FLAGSHIP)
    shapes = step.param_shapes(model, (224, 224, 3))
    ones = jax.tree.map(lambda x: np.ones((), np.float32), shapes)
    tx, _ = make_optimizer(ones, **BARE, wd=1.0)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, ones), tx.init(ones), ones)
    decayed = jax.tree.map(lambda x, u: -float(u) * x.size, shapes, updates)
    sizes = [x for x in jax.tree.leaves(decayed) if x]
    assert (len(sizes), sum(sizes)) == (75, 22_060_032)


def test_a_pattern_that_matches_nothing_is_warned_of(caplog):
    make_optimizer(
        tiny(),
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


def test_groups_have_their_schedules_and_frozen_leaves_nothing():
    warmup = {"decay_type": "linear", "warmup_steps": 4}
    schedule = [("head/bias", {"mult": 3.0}), ("body/.*", None), (".*", warmup)]
    params, grads = tiny(), tiny(1)
    # Counted in the norm, this would scale everything down to nothing.
    grads["body"]["bias"] = np.full(2, 1e9, np.float32)
    kw = {"wd": 0.5, "grad_clip_norm": 1e3, "schedule": schedule}
    tx, rates = make_optimizer(params, **{**BARE, "lr": 2.0}, **kw)
    found = [[float(rate(s)) for s in (0, 2, 52)] for rate in rates]
    assert found == [[6, 6, 6], [0, 1, 1]]
    updates, _ = run(tx, params, [grads] * 2)
    g, p = named(grads), named(params)
    for t, update in enumerate(map(named, updates)):
        assert not update["body/bias"].any()
        assert not update["body/kernel"].any()
        np.testing.assert_allclose(update["head/bias"], -6 * g["head/bias"], rtol=1e-6)
        expected = -0.25 * t * (2 * g["head/kernel"] + 0.5 * p["head/kernel"])
        np.testing.assert_allclose(
            update["head/kernel"], expected, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(
    "name", ["scale_by_adam", "big_vision.scale_by_adafactor", "big_vision.momentum_hp"]
)
def test_frozen_leaves_have_no_moments(name):
    params = {"body": jnp.zeros((7, 5)), "head": jnp.zeros((3, 2))}
    schedule = [("body", None), ("head", {"decay_type": "cosine"})]
    tx, rates = make_optimizer(
        params, **{**BARE, "optax_name": name}, schedule=schedule
    )
    shapes = {x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, params))}
    assert (3, 2) in shapes
    assert (7, 5) not in shapes
    assert len(rates) == 1


def test_everything_may_be_frozen():
    kw = {"wd": 1.0, "grad_clip_norm": 1.0, "schedule": [(".*", None)]}
    tx, rates = make_optimizer(tiny(), **ADAM, **kw)
    [update], _ = run(tx, tiny(), [tiny(1)])
    assert ox.tree.norm(update) == 0
    assert rates == []


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
    got = [flax.core.unfreeze(g) for g in got]
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    whole = ConfigDict({"schedule": {"decay_type": "cosine"}})
    _, [rate] = make_optimizer(params, **ADAM, **whole)
    np.testing.assert_allclose(rate(50), 0.5e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("cap", "threshold", "momentum"), [(0.999, None, None), (0.5, 0.7, 0.9)]
)
def test_adafactor_by_hand(cap, threshold, momentum):
    # Both dims of "wide" reach 32 and are factored; those of the others do not.
    shapes = {"wide": (64, 48), "thin": (64, 31), "bias": (64,)}
    rng = np.random.default_rng(0)
    grads = [
        {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
        for _ in range(5)
    ]
    params = {k: jnp.zeros(s) for k, s in shapes.items()}
    section = {"beta2_cap": cap, "clipping_threshold": threshold, "momentum": momentum}
    section["dtype_momentum"] = "float32"
    tx, _ = make_optimizer(
        params, **{**ADAFACTOR, "optax_name": "adafactor"}, optax=section
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
            found, where = named(updates)[name], f"{name} {t}"
            np.testing.assert_allclose(found, -u, rtol=2e-5, atol=1e-7, err_msg=where)


def test_adafactor_defaults_are_those_of_big_vision():
    params = {"wide": jnp.zeros((64, 48)), "thin": jnp.zeros((64, 31))}
    tx, _ = make_optimizer(params, **ADAFACTOR)
    grads = {k: jnp.full(x.shape, 2.0) for k, x in params.items()}
    [update], state = run(tx, params, [grads])
    # beta2 is 0 at step 1, so g / rms(g) is 1: no debias and no clip, times 1 - 0.9.
    np.testing.assert_allclose(update["wide"], np.full((64, 48), -0.1), rtol=1e-6)
    dtypes = {x.dtype for x in jax.tree.leaves(ox.tree.get(state, "ema"))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}
    # min(0.999, 1 - t**-0.8) meets its cap only after step 5,623: set the count there.
    late = ox.tree.set(state, lambda path, _: path[-1].name == "count", count=9_999)
    late = ox.tree.set(late, v_row={"wide": jnp.zeros(48), "thin": jnp.zeros(1)})
    _, late = tx.update(grads, late, params)
    row = ox.tree.get(late, "v_row")["wide"]
    np.testing.assert_allclose(row, np.full(48, 0.001 * 4), rtol=1e-4)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_hp(nesterov):
    params = {"a": jnp.zeros(3)}
    momentum = {**BARE, "optax_name": "big_vision.momentum_hp"}
    section = {"momentum": 0.5, "nesterov": nesterov}
    tx, _ = make_optimizer(params, **momentum, optax=section)
    # Powers of two: bfloat16 holds them exactly.
    grads = [{"a": jnp.full(3, x)} for x in (1.0, 2.0, 4.0)]
    updates, state = run(tx, params, grads)
    expected = [1.5, 3.25, 6.625] if nesterov else [1, 2.5, 5.25]
    assert [float(-u["a"][0]) for u in updates] == expected
    dtypes = {x.dtype for x in jax.tree.leaves(ox.tree.get(state, "trace"))}
    assert dtypes == {jnp.dtype(jnp.bfloat16)}


MOMENTUM = {"momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize(
    ("name", "section", "whole", "decays"),
    [
        ("sgd", {}, ox.sgd, False),
        ("sgd", MOMENTUM, lambda lr: ox.sgd(lr, **MOMENTUM), False),
        ("adam", {"b2": 0.95}, lambda lr: ox.adam(lr, b2=0.95), False),
        ("adamw", {"b2": 0.95}, lambda lr, **kw: ox.adamw(lr, b2=0.95, **kw), True),
        ("adam", {}, ox.adamw, True),  # the decay is wd, whatever the name
        ("lion", {}, ox.lion, True),
        ("lamb", {}, ox.lamb, True),
    ],
)
def test_an_optimizer_by_its_name_is_optaxs(name, section, whole, decays):
    """optax multiplies its decay by the rate, so it gets wd / lr."""
    lr, wd = 0.01, 0.002 if decays else None
    kw = {"wd": wd, "schedule": {"decay_type": "linear", "warmup_steps": 2}}
    section = {"lr": lr, "optax_name": name, "optax": section, **kw}
    tx, [rate] = make_optimizer(tiny(), **{**RUN, **section})
    kernels = {k: {"kernel": True, "bias": False} for k in ("body", "head")}
    theirs = whole(
        rate, **({"weight_decay": wd / lr, "mask": kernels} if decays else {})
    )
    grads = [tiny(i) for i in range(1, 7)]
    (ours, _), (expected, _) = (run(t, tiny(), grads) for t in (tx, theirs))
    for a, b in zip(ours, expected, strict=True):
        for key, x in named(b).items():
            np.testing.assert_allclose(named(a)[key], x, rtol=2e-5, atol=1e-9)


def test_a_frozen_parameter_has_no_part_in_lamb():
    schedule = [("body/.*", None), (".*", {})]
    lamb = {"optax_name": "lamb", "wd": 0.1, "lr": 0.5, "schedule": schedule}
    update = first_update(tiny(), tiny(1), **lamb)
    assert not update["body/kernel"].any()
    alone = first_update({"head": tiny()["head"]}, {"head": tiny(1)["head"]},
                         **lamb | {"schedule": None})  # fmt: skip
    np.testing.assert_allclose(update["head/kernel"], alone["head/kernel"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("scale_by_lion", {"b1": 0.9}),
        ("trace", {"decay": 0.9}),
        ("contrib.scale_by_ademamix", {}),
        ("scale_by_adan", None),
    ],
)
def test_any_transform_of_optax_by_name(name, section):
    update = first_update(tiny(), tiny(1), optax_name=name, optax=section)
    assert sum((update[k] * g).sum() for k, g in named(tiny(1)).items()) < 0


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"optax_name": "scale_by_adm"}, "optax_name.*did you mean 'scale_by_adam'"),
        ({"optax_name": "big_vision.scale_by_adafactr"}, "scale_by_adafactor'"),
        ({"optax_name": "contrib"}, "unknown optax_name 'contrib'"),
        ({"optax_name": "rmsprop"}, "'rmsprop' is a whole optimizer.* sgd, shampoo"),
        ({"optax_name": "scale_by_sgd"}, "unknown optax_name .*; did you mean 'sgd'"),
        ({"optax_name": "Adamw"}, "did you mean 'adamw'"),
        ({"optax_name": "sgd", "optax": {"decay": 0.9}}, "for sgd 'decay'.*momentum"),
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
        ({"schedule": {"decay": "cosine"}}, "did you mean 'decay_type'"),
        ({"schedule": {"total_steps": 3}}, "schedule cannot set total_steps"),
        ({"schedule": {"warmup_steps": 100}}, "warm-up of 100 steps"),
        ({"schedule": [("head/.*", {}), (".*/bias", None)]},
         "schedule must cover every parameter.* body/kernel;"),
        ({"schedule": [("(", {})]}, r"schedule: '\(' is not a regular expression"),
        ({"lr_mults": [("head/.*", 0)]}, "lr_mults must be above 0"),
        ({"sam": {"rho": 0}}, "sam.rho must be above 0, got 0"),
        ({"sam": {"ro": 0.1}}, "in sam: .ro.; did you mean 'rho'"),
        ({"l2": 0.1, "l2_mults": [("*", 1.0)]}, "l2_mults: .* not a regular"),
        ({"wd": 0.1, "wd_mults": [("*", 1.0)]}, "wd_mults: .* not a regular"),
    ],
)  # fmt: skip
def test_errors(kw, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(tiny(), **{**ADAM, **kw})
